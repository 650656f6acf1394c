package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// repairMost is the longest wait between two repairs of rules that another program changes
// repeatedly.
const repairMost = time.Minute

// repairer schedules the repair of rules that another program changed. The first repair is
// immediate; later waits double, so that two programs that fight over the rules do not cause a busy
// loop.
type repairer struct {
	last  time.Time     // of the last repair
	wait  time.Duration // before the next one
	timer *time.Timer   // nil while no repair is scheduled
	err   error         // the change that was found
}

// schedule schedules a repair, unless one is due already.
func (r *repairer) schedule(err error) {
	if r.timer != nil {
		return
	}
	switch since := time.Since(r.last); {
	case since > 2*repairMost:
		r.wait = 0
	case r.wait == 0:
		r.wait = time.Second
	default:
		r.wait = min(2*r.wait, repairMost)
	}
	r.err, r.timer = err, time.NewTimer(r.wait)
}

// cancel cancels the scheduled repair.
func (r *repairer) cancel() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer, r.err = nil, nil
}

// due returns a channel that is ready when a repair is due; nil if none is scheduled.
func (r *repairer) due() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

// checkLoss schedules a repair if the kernel does not have the active rules. A change may have been
// reported before the active rules were applied; such a change needs no repair.
func (e *Enforcer) checkLoss(err error) {
	verified := errors.New("no rules are active")
	if e.active.rules != nil {
		_, verified = e.backend.fw.Verify()
	}
	if verified != nil {
		e.repair.schedule(err)
	}
	e.publish()
}

// repairRules restores rules that another program changed.
func (e *Enforcer) repairRules(ctx context.Context) {
	r := &e.repair
	cause := r.err
	r.cancel()
	r.last = time.Now()
	d := e.active.rules
	// The ledger must notice a deleted table before a new one begins to count.
	_, _ = e.backend.ledger.Read()
	var err error
	if d != nil {
		_, err = e.applyRules(ctx, *d)
	} else {
		err = e.removeRules() // the remains of a first list that was rolled back
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		e.setError(err, status.ApplyError)
		e.o.Log.Error("Firewall rules were changed by another program and cannot be restored",
			zap.NamedError("found", cause), zap.Error(err))
		r.schedule(cause)
	default:
		e.countRepair()
		e.o.Log.Warn(fmt.Sprintf("Firewall rules were changed by another program; restored, blocking %d IPs",
			e.active.blocked()),
			zap.NamedError("found", cause), zap.Int("repairs", e.counts.repairs))
	}
	e.publish()
}

// rulesLost reports a change of the rules by another program. It publishes the change at once,
// because Run, which repairs the rules, may be waiting for a probe.
func (e *Enforcer) rulesLost(err error) {
	e.setCondition(status.CondRules, err)
	offer(e.backend.lostC, err)
}
