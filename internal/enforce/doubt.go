package enforce

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// doubtFirst is how long after a list was acquitted it is doubted again.
const doubtFirst = suspectAgain

// doubt holds the checks that failed when a list was acquitted, because they failed without the
// list too. An outage may have hidden that the list cuts them off as well, so they are made again
// until they work.
type doubt struct {
	checks host.Checks
	wait   *clock.Retry
}

// about has the checks looked at again.
func (d *doubt) about(checks host.Checks) {
	d.checks = checks
	d.wait.Reset()
	d.wait.Schedule()
}

// done ends the doubt.
func (d *doubt) done() {
	d.checks = nil
	d.wait.Reset()
}

// due is ready when it is time to look.
func (d *doubt) due() <-chan time.Time { return d.wait.DueC() }

// doubtAgain makes the doubted checks again. If they still fail, it accuses the list in force.
func (e *Enforcer) doubtAgain(ctx context.Context) {
	d := &e.trials.doubt
	d.wait.Stop()
	failing := trial{probe: e.o.Host.Probe}.failing(ctx, d.checks)
	switch {
	case ctx.Err() != nil:
	case e.active.rules == nil:
		d.done() // no list is in force that could be why
	case len(failing) == 0:
		e.o.Log.Info("Reached again, with the list in force", zap.Stringer("checks", d.checks))
		d.done()
	default:
		d.wait.Schedule()
		e.accuse(ctx)
	}
}
