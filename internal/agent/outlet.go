package agent

import (
	"context"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// Outlet writes the log. It never blocks a caller that logs.
type Outlet interface {
	// Stalled returns why lines do not reach their reader; nil while they do.
	Stalled() error
	// Dropped returns the number of lines dropped so far.
	Dropped() uint64
}

// watchOutlet makes the condition of the log hold while its lines do not get through, until ctx
// ends.
func (a *Agent) watchOutlet(ctx context.Context) error {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for held := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if err := a.o.Outlet.Stalled(); err != nil || held {
				held = err != nil
				a.board.SetCondition(status.CondLog, err)
			}
		}
	}
}

// logDropped returns the number of log lines dropped so far.
func (a *Agent) logDropped() uint64 {
	if a.o.Outlet == nil {
		return 0
	}
	return a.o.Outlet.Dropped()
}
