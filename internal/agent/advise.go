package agent

import (
	"errors"
	"fmt"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// advise returns err with the variable to check, if err is an answer of the API that a wrong
// variable brings about.
func advise(err error) error {
	switch {
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		return fmt.Errorf("%w: check SIKKER_API_KEY", err)
	case errors.Is(err, sikkerapi.ErrRedirect):
		return fmt.Errorf("%w: check SIKKER_API_URL", err)
	}
	return err
}
