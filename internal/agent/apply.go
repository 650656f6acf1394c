package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// probeAgain is how long after a failed check it is asked once more, before a list is blamed.
	probeAgain = 500 * time.Millisecond
	// suspectAgain is how long after a list was suspected it may be again.
	suspectAgain = 5 * time.Minute
	// repairMost is the longest wait between two repairs, when somebody changes the rules over and over.
	repairMost = time.Minute
)

// RollbackError is a list that was taken out of force again.
type RollbackError struct {
	Broken  host.Checks // what worked before the list and not with it
	Cause   error       // or what the kernel said, when that is the reason
	Entries int         // of the list
	Again   bool        // it is the list that was rolled back before, and was not tried again
}

func (e *RollbackError) Error() string {
	switch {
	case e.Again:
		return fmt.Sprintf("the list of %d entries is the one that was rolled back; it is tried again when it differs", e.Entries)
	case e.Cause != nil:
		return fmt.Sprintf("the list of %d entries was rolled back: %v", e.Entries, e.Cause)
	}
	return fmt.Sprintf("the list of %d entries was rolled back, because with it this host no longer reaches: %v; "+
		"add its addresses to SIKKER_WHITELIST", e.Entries, e.Broken)
}

// Unwrap is what the kernel said.
func (e *RollbackError) Unwrap() error { return e.Cause }

// apply puts d in force, and says so after the kernel was asked. What this host reaches is measured before and after; a
// list with which something fails that worked before is taken out of force at once.
func (a *Agent) apply(ctx context.Context, d desired) error {
	if a.cfg.DryRun {
		a.tellDryRun(d)
		a.enforcer.entries4, a.enforcer.entries6 = d.block.Len4(), d.block.Len6()
		a.inForce(d)
		return nil
	}
	if a.enforcer.rejected.Len() > 0 && d.block.Equal(a.enforcer.rejected) {
		return &RollbackError{Entries: d.block.Len(), Again: true}
	}
	before := a.host.Probe(ctx)
	ev, err := a.enact(ctx, d)
	switch {
	case errors.Is(err, firewall.ErrMismatch):
		return a.rollback(d, &RollbackError{Cause: err, Entries: d.block.Len()})
	case err != nil:
		return err
	}
	if broken := a.broken(ctx, before); len(broken) > 0 {
		return a.rollback(d, &RollbackError{Broken: broken, Entries: d.block.Len()})
	}
	if ctx.Err() != nil {
		return ctx.Err() // the agent is being stopped, and the probes with it: nothing can be said of the list
	}
	a.inForce(d)
	a.log.Info(fmt.Sprintf("Blocking %d IPs", ev.Entries()))
	a.log.Debug("Verified in the kernel", zap.Int("elements", ev.Elements), zap.Bool("counted", ev.Counted),
		zap.Int("sampled", ev.Sampled), zap.Duration("took", ev.Took))
	return nil
}

// enact has the kernel enforce d, and remembers what it answered and how long that took.
func (a *Agent) enact(ctx context.Context, d desired) (ruleset.Evidence, error) {
	ev, err := a.fw.Apply(ctx, a.ruleset(d))
	if ev.Took > 0 { // it was asked
		a.applied.Observe(ev.Took.Seconds())
	}
	if err == nil {
		v := &VerifiedStatus{
			At: *inFuture(0), Elements: ev.Elements, Counted: ev.Counted, Sampled: ev.Sampled, Seconds: ev.Took.Seconds(),
		}
		a.tellGaps()
		a.setStatus(func(s *Status) { s.Verified = v })
		a.enforcer.entries4, a.enforcer.entries6 = ev.Entries4, ev.Entries6
	}
	return ev, err
}

func (a *Agent) ruleset(d desired) ruleset.Ruleset {
	return ruleset.Ruleset{Block: d.block, Allow: d.allow, LogGroup: a.cfg.NFLOGGroup, LogRate: a.cfg.LogRate}
}

// broken is what worked before and fails now, twice.
func (a *Agent) broken(ctx context.Context, before host.Checks) host.Checks {
	broken := host.Broken(before, a.host.Probe(ctx))
	if len(broken) == 0 || !sleep(ctx, probeAgain) {
		return nil
	}
	return host.Broken(before, a.host.Probe(ctx))
}

// rollback puts back what was in force before d, or nothing, and returns why. It is finished even when the agent is being
// stopped.
func (a *Agent) rollback(d desired, why *RollbackError) error {
	a.enforcer.rejected, a.enforcer.left = d.block, false
	var err error
	if e := a.enforcer.enforced; e != nil {
		_, err = a.enact(context.Background(), *e)
	} else {
		err = a.takeAway()
	}
	a.setStatus(func(s *Status) { s.Rollbacks++ })
	if err != nil {
		err = fmt.Errorf("roll back: %w", err)
		a.enforcer.repair.lost(err) // tried again until it works
		return errors.Join(why, err)
	}
	return why
}

// suspect tries whether the list in force is why the API is not reached. A list is measured by what worked before it, and at
// a boot nothing did; later the host may begin to depend on something that is listed. So when a pull finds nobody and answers
// to this host were dropped, those who answered are let in for a moment. When more works then, and not without them again, the
// list is taken out of force. Answers can be forged, so it is not tried often.
func (a *Agent) suspect(ctx context.Context, pull error) error {
	e := &a.enforcer
	if !unreached(pull) || a.cfg.DryRun || e.enforced == nil || time.Since(e.suspected) < suspectAgain {
		return nil
	}
	asked := a.seen.answered()
	if asked.Len() == 0 {
		return nil
	}
	e.suspected = time.Now()
	a.log.Warn("The API is not reached, and answers to this host are dropped: letting those in for a moment who answered",
		zap.Int("sources", asked.Len()))
	d := *e.enforced
	with := a.host.Probe(ctx)
	_, err := a.enact(ctx, desired{block: d.block.Without(asked), allow: d.allow.Union(asked)})
	without := a.host.Probe(ctx)
	if _, again := a.enact(ctx, d); err != nil || again != nil || ctx.Err() != nil {
		if again != nil && ctx.Err() == nil {
			e.repair.lost(again) // tried again until it works
		}
		return errors.Join(err, again)
	}
	broken := host.Broken(without, with)
	if len(broken) > 0 {
		broken = host.Broken(without, a.host.Probe(ctx))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(broken) == 0 {
		a.log.Info(fmt.Sprintf("It is not the list; blocking %d IPs as before", d.block.Len()))
		return nil
	}
	e.enforced = nil
	a.setPulled(blocklist.Blocklist{}, time.Time{})
	return a.rollback(d, &RollbackError{Broken: broken, Entries: d.block.Len()})
}

// unreached says whether a pull failed because nobody answered.
func unreached(pull error) bool {
	_, temporary := errors.AsType[*sikkerapi.TemporaryError](pull)
	_, answered := errors.AsType[*sikkerapi.APIError](pull)
	return temporary && !answered
}

// inForce remembers what is in force.
func (a *Agent) inForce(d desired) {
	e := &a.enforcer
	e.enforced, e.left, e.rejected, e.stale = &d, false, blocklist.Blocklist{}, nil
	e.repair.done()
	a.publish()
	a.tellSaved(d)
}

// publish makes the status say what is in force, and what is not as it should be.
func (a *Agent) publish() {
	e := &a.enforcer
	a.setCondition(condRefresh, e.failure)
	a.setCondition(condWhitelist, e.stale)
	var repairing error
	if e.repair.timer != nil {
		repairing = fmt.Errorf("the rules are being put right: %w", e.repair.err)
	}
	a.setCondition(condRules, repairing)
	a.setStatus(func(s *Status) {
		s.enforcing = StateActive
		if e.enforced != nil {
			s.Blocked4, s.Blocked6, s.Custom = e.entries4, e.entries6, e.own.Len()
			s.BlockedIPs = s.Blocked4 + s.Blocked6
		}
		if e.enforced == nil {
			s.enforcing = StateUnprotected
		}
		if a.cfg.DryRun {
			s.enforcing = StateDryRun
		}
	})
}

// repairer paces the repair of rules that somebody else changed: the first at once, the next after a wait that doubles, so
// that two programs that fight over the rules do not do it in a loop.
type repairer struct {
	last  time.Time     // of the last repair
	wait  time.Duration // before the next one
	timer *time.Timer   // nil while there is nothing to repair
	err   error         // what was found
}

// lost schedules a repair.
func (r *repairer) lost(err error) {
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
func (r *repairer) done() {
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

// takeLoss has a loss repaired. One that came before what is in force now is none any more.
func (a *Agent) takeLoss(err error) {
	e := &a.enforcer
	verified := errors.New("nothing is in force")
	if e.enforced != nil {
		_, verified = a.fw.Verify()
	}
	if verified != nil {
		e.repair.lost(err)
	}
	a.publish()
}

// restoreRules puts back what somebody else changed.
func (a *Agent) restoreRules(ctx context.Context) {
	r := &a.enforcer.repair
	cause := r.err
	r.done()
	r.last = time.Now()
	e := a.enforcer.enforced
	// Counters of a table that is gone count as nothing now, before a new one begins to count.
	_, _ = a.dropped()
	var err error
	if e != nil {
		_, err = a.enact(ctx, *e)
	} else {
		err = a.takeAway() // what is left of a first list that was rolled back
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		a.remember(err, applyError)
		a.log.Error("The firewall rules are not what they should be and cannot be put right", zap.NamedError("found", cause), zap.Error(err))
		r.lost(cause)
	default:
		a.setStatus(func(s *Status) { s.Repairs++ })
		n := a.status.Load().BlockedIPs
		a.log.Warn(fmt.Sprintf("The firewall rules were not what they should be; put right, blocking %d IPs", n),
			zap.NamedError("found", cause), zap.Int("repairs", a.status.Load().Repairs))
	}
	a.publish()
}
