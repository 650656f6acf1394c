package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// recheckFirst is how long after a list was acquitted it is doubted again.
const recheckFirst = testGap

// doubt holds the checks that failed when a list was acquitted, because they failed without the
// list too. An outage may have hidden that the list cuts them off as well, so they are made again
// until they work.
type recheck struct {
	checks host.Checks
	wait   *clock.Retry
}

// about has the checks looked at again.
func (d *recheck) start(checks host.Checks) {
	d.checks = checks
	d.wait.Reset()
	d.wait.Schedule()
}

// done ends the doubt.
func (d *recheck) end() {
	d.checks = nil
	d.wait.Reset()
}

// due is ready when it is time to look.
func (d *recheck) due() <-chan time.Time { return d.wait.DueC() }

// recheckFailed makes the doubted checks again. If they still fail, it accuses the list in force.
func (e *Enforcer) recheckFailed(ctx context.Context) {
	d := &e.trials.recheck
	d.wait.Stop()
	failing := trial{probe: e.o.Host.Probe}.failing(ctx, d.checks)
	switch {
	case ctx.Err() != nil:
	case e.active.rules == nil:
		d.end() // no list is in force that could be why
	case len(failing) == 0:
		e.o.Log.Info("Reached again, with the list in force", zap.Stringer("checks", d.checks))
		d.end()
	default:
		d.wait.Schedule()
		e.testActive(ctx)
	}
}

// testGap is how long after a list was suspected it may be again.
const testGap = 5 * time.Minute

// suspect accuses the list in force if a pull reached nothing.
func (e *Enforcer) testAfterPull(ctx context.Context, pull error) {
	if unreached(pull) {
		e.testActive(ctx)
	}
}

// accuse tries whether the list in force is why something is not reached. A list is measured by the
// checks that worked before it, and at a boot none did; later the host may begin to depend on an
// address that is listed. So if answers to this host were dropped, their sources are let in for a
// moment. If more works then, and not without them again, those that are needed are exempted. Answers
// can be forged, so it is not tried often.
func (e *Enforcer) testActive(ctx context.Context) {
	if e.o.DryRun || e.active.rules == nil || time.Since(e.trials.tested) < testGap ||
		len(e.trials.repliers.on(e.active.rules.block, time.Now())) == 0 {
		return
	}
	e.trials.tested = time.Now()
	broken := e.rebaseInForce(ctx, trial{probe: e.o.Host.Probe}.unreached(ctx))
	d := *e.active.rules
	candidates := e.trials.repliers.on(d.block, time.Now()) // some have answered just now
	if len(broken) == 0 || len(candidates) == 0 {
		return
	}
	e.o.Log.Warn("This host does not reach all that it needs, and answers to it are dropped; letting those in for a moment that answered",
		zap.Int("sources", len(candidates)), zap.Stringer("notReached", broken))
	defer e.setCondition(status.CondOpen, nil)
	let, exempted, err := e.exemptNeeded(ctx, d, broken, candidates)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.recordAttempt(errors.Join(err, e.undo()))
		e.publish()
	case exempted:
		for _, r := range e.remotes {
			r.wait.Reset() // the pulls that failed did so because of the list
		}
		e.setActive(let)
	default:
		e.updateActive(let)
		e.o.Log.Info(fmt.Sprintf("It is not the list; blocking %d IPs as before", let.block.Len()))
	}
}
