package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// advisedAPI is SikkerAPI's client. If a wrong variable causes an answer of the API, the error
// names the variable.
type advisedAPI struct{ client *sikkerapi.Client }

func (a advisedAPI) Blacklist(ctx context.Context, q sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error) {
	s, err := a.client.Blacklist(ctx, q)
	return s, advise(err)
}

func (a advisedAPI) BlacklistJSON(
	ctx context.Context, q sikkerapi.BlacklistQuery,
) (sikkerapi.BlacklistResponse, error) {
	r, err := a.client.BlacklistJSON(ctx, q)
	return r, advise(err)
}

func (a advisedAPI) BulkReport(ctx context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	r, err := a.client.BulkReport(ctx, rows)
	return r, advise(err)
}

func (a advisedAPI) Status(ctx context.Context) (sikkerapi.Status, error) {
	s, err := a.client.Status(ctx)
	return s, advise(err)
}

// advise returns err, with the variable to check if a wrong variable causes such an answer of the
// API.
func advise(err error) error {
	switch {
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		return fmt.Errorf("%w: check SIKKER_API_KEY", err)
	case errors.Is(err, sikkerapi.ErrRedirect):
		return fmt.Errorf("%w: check SIKKER_API_URL", err)
	}
	return err
}
