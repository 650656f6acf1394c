package agent

import (
	"context"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// Outlet writes the log. It never blocks a caller that logs.
type Outlet interface {
	// Stalled returns why lines do not reach their reader; nil while they do.
	Stalled() error
	// ChangedC returns a channel that has a value when the result of Stalled has changed.
	ChangedC() <-chan struct{}
	// Dropped returns the number of lines dropped so far.
	Dropped() uint64
}

// watchOutlet makes the condition of the log hold while its lines do not get through, until ctx
// ends.
func (a *Agent) watchOutlet(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.o.Outlet.ChangedC():
			a.board.SetCondition(status.CondLog, a.o.Outlet.Stalled())
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
