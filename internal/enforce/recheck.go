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

const (
	// testGap is the shortest time between two tests of the active list.
	testGap = 5 * time.Minute
	// recheckFirst is how long after a trial that proved no cause the failed checks are first made
	// again.
	recheckFirst = testGap
)

// recheck has checks made again that failed both with and without a list. An outage may have hidden
// that the list also cuts them off, so they are repeated until they work.
type recheck struct {
	checks host.Checks
	wait   *clock.Retry
}

// start has the checks made again after recheckFirst, and then after longer waits.
func (r *recheck) start(checks host.Checks) {
	r.checks = checks
	r.wait.Reset()
	r.wait.Schedule()
}

// end cancels the recheck.
func (r *recheck) end() {
	r.checks = nil
	r.wait.Reset()
}

// due returns a channel that is ready when the checks must be made again.
func (r *recheck) due() <-chan time.Time { return r.wait.DueC() }

// recheckFailed makes the failed checks again. If some still fail, it tests the active list.
func (e *Enforcer) recheckFailed(ctx context.Context) {
	r := &e.trials.recheck
	r.wait.Stop()
	failing := trial{probe: e.o.Host.Probe}.failing(ctx, r.checks)
	switch {
	case ctx.Err() != nil:
	case e.active.rules == nil:
		r.end() // no list is active that could be the cause
	case len(failing) == 0:
		e.o.Log.Info("Reached again while the list is active", zap.Stringer("checks", r.checks))
		r.end()
	default:
		r.wait.Schedule()
		e.testActive(ctx)
	}
}

// testAfterPull tests the active list if a pull reached neither the API nor a proxy.
func (e *Enforcer) testAfterPull(ctx context.Context, pull error) {
	if unreached(pull) {
		e.testActive(ctx)
	}
}

// testActive tests whether the active list cuts this host off. A trial of a new list uses the
// checks that worked before it; at a boot none did, and later the host may begin to depend on a
// listed address. So if replies to this host were dropped, their sources are let through for a
// moment. If more checks work with them than without them, the needed sources are exempted. Replies
// can be forged, so testGap limits the tests.
func (e *Enforcer) testActive(ctx context.Context) {
	if e.o.DryRun || e.active.rules == nil || time.Since(e.trials.tested) < testGap ||
		len(e.trials.repliers.on(e.active.rules.block, time.Now())) == 0 {
		return
	}
	e.trials.tested = time.Now()
	broken := e.rebaseActive(ctx, trial{probe: e.o.Host.Probe}.unreached(ctx))
	d := *e.active.rules
	candidates := e.trials.repliers.on(d.block, time.Now()) // more may have replied during the checks
	if len(broken) == 0 || len(candidates) == 0 {
		return
	}
	e.logOpening(candidates, broken)
	defer e.setCondition(status.CondOpen, nil)
	let, exempted, err := e.exemptNeeded(ctx, d, broken, candidates)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.recordAttempt(errors.Join(err, e.undo()))
		e.publish()
	case exempted:
		for _, r := range e.remotes {
			r.wait.Reset() // the pulls failed because of the list
		}
		e.setActive(let)
	default:
		e.updateActive(let)
		e.o.Log.Info(fmt.Sprintf("The list is not the cause; blocking %d IPs as before", let.block.Len()))
	}
}
