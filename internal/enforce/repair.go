package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// repairMost is the longest wait between two repairs, when another program changes the rules over and over.
const repairMost = time.Minute

// repairer paces the repair of rules that somebody else changed: the first at once, the next after a wait that doubles, so
// that two programs that fight over the rules do not do it in a loop.
type repairer struct {
	last  time.Time     // of the last repair
	wait  time.Duration // before the next one
	timer *time.Timer   // nil while there is nothing to repair
	err   error         // what was found
}

// lost schedules a repair.
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

// done forgets what was to be repaired.
func (r *repairer) cancel() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer, r.err = nil, nil
}

// due is ready when it is time to repair; never, while there is nothing to repair.
func (r *repairer) due() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

// checkLoss has a loss repaired. One that came before what is in force now is none any more.
func (e *Enforcer) checkLoss(err error) {
	verified := errors.New("nothing is in force")
	if e.active.rules != nil {
		_, verified = e.backend.fw.Verify()
	}
	if verified != nil {
		e.repair.schedule(err)
	}
	e.publish()
}

// repairRules puts back what somebody else changed.
func (e *Enforcer) repairRules(ctx context.Context) {
	r := &e.repair
	cause := r.err
	r.cancel()
	r.last = time.Now()
	d := e.active.rules
	// Counters of a table that is gone count as nothing now, before a new one begins to count.
	_, _ = e.backend.ledger.Read()
	var err error
	if d != nil {
		_, err = e.applyRules(ctx, *d)
	} else {
		err = e.removeRules() // what is left of a first list that was rolled back
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		e.setError(err, status.ApplyError)
		e.o.Log.Error("Firewall rules were changed by another program and cannot be restored", zap.NamedError("found", cause), zap.Error(err))
		r.schedule(cause)
	default:
		e.setStatus(func(s *status.Status) { s.Repairs++ })
		n := e.o.Board.Latest().BlockedIPs
		e.o.Log.Warn(fmt.Sprintf("Firewall rules were changed by another program; restored, blocking %d IPs", n),
			zap.NamedError("found", cause), zap.Int("repairs", e.o.Board.Latest().Repairs))
	}
	e.publish()
}

// lost is what the watch calls when somebody else changed the rules. It is published at once: the enforcing task, which
// puts them right, may be waiting for a probe.
func (e *Enforcer) rulesLost(err error) {
	e.setCondition(status.CondRules, err)
	offer(e.backend.lostC, err)
}
