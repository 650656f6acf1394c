package enforce

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// apply activates d, and logs it after the kernel has confirmed it. The checks of this host are
// made before and after. If one fails that worked before, a trial of d follows. d is rolled back
// only if the trial proves that d is the cause.
func (e *Enforcer) apply(ctx context.Context, d desired) error {
	if e.o.DryRun {
		e.logDryRun(d)
		e.active.entries4, e.active.entries6 = d.block.Len4(), d.block.Len6()
		e.setActive(d)
		return nil
	}
	// Rules that block no more than the active ones cannot cut this host off. They need no trial,
	// and an allowlist that grows is active within milliseconds.
	harmless := e.active.rules != nil && coveredBy(d.block, e.active.rules.block)
	if !harmless && e.trials.rejected.of(d) {
		return e.trials.rejected.again()
	}
	if harmless {
		return e.activate(ctx, d, nil, harmless)
	}
	before, late := e.checkBefore(ctx)
	if len(late) == 0 {
		return e.activate(ctx, d, before, harmless)
	}
	e.trials.late.begin()
	if err := e.activate(ctx, d, before, harmless); err != nil {
		e.trials.late.end()
		return err
	}
	e.watchLate(ctx, late)
	return nil
}

// activate activates d and tests it by the checks that worked before. Rules that are harmless block
// no more than the active ones.
func (e *Enforcer) activate(ctx context.Context, d desired, before host.Checks, harmless bool) error {
	adopted := e.active.adopted
	ev, err := e.applyRules(ctx, d)
	switch {
	case errors.Is(err, firewall.ErrMismatch):
		err = fmt.Errorf("enforce the list of %s: %w", blocklist.Entries(d.block.Len()), err)
		if adopted {
			return err // the kernel's rules stay until the next attempt: the host does not stay open
		}
		return errors.Join(err, e.undo())
	case err != nil:
		return err
	}
	if adopted {
		e.setActive(d) // they replace the rules of the killed agent; whatever a trial does, rules are active
	}
	if d, err = e.testNew(ctx, d, before, adopted); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err() // the agent is stopping, and its probes end: the list is not judged
	}
	rejected, same := e.trials.rejected, d.equal(e.active.rules)
	e.setActive(d)
	if harmless && !rejected.of(d) {
		e.trials.rejected = rejected // they still cut the host off
	}
	e.logBlocking(same)
	e.o.Log.Debug("Verified in the kernel", zap.Int("elements", ev.Elements), zap.Bool("counted", ev.Counted),
		zap.Int("sampled", ev.Sampled), zap.Duration("took", ev.Took))
	return nil
}

// coveredBy reports whether every entry of inner is covered by an entry of outer. It reads each list
// once, in ascending order.
func coveredBy(inner, outer blocklist.Blocklist) bool {
	return inner.Equal(outer) ||
		allCovered(inner.V4(), outer.V4()) && allCovered(inner.V6(), outer.V6())
}

// allCovered reports whether a prefix of outer covers each prefix of inner. Both are ascending and
// disjoint.
func allCovered(inner, outer iter.Seq[netip.Prefix]) bool {
	next, stop := iter.Pull(outer)
	defer stop()
	q, more := next()
	for p := range inner {
		// A prefix that ends before p covers no later one either.
		for more && !q.Overlaps(p) && q.Addr().Less(p.Addr()) {
			q, more = next()
		}
		if !more || !q.Overlaps(p) || q.Bits() > p.Bits() {
			return false
		}
	}
	return true
}

// testNew returns the active rules if d, which has just become active, is not proven to cut this
// host off: d, or d without the addresses that this host needs. Otherwise d is no longer active,
// and the error is a *RollbackError. Rules of a killed agent that d replaced cannot be restored.
// After those, d is never rolled back as a whole, so that the host does not stay open.
func (e *Enforcer) testNew(ctx context.Context, d desired, before host.Checks, adopted bool) (desired, error) {
	broken := trial{probe: e.o.Host.Probe}.broken(ctx, before)
	d, broken, err := e.rebase(ctx, d, broken)
	if err != nil {
		return d, errors.Join(err, e.undo())
	}
	if len(broken) == 0 {
		return d, nil
	}
	accusing := relayed(broken)
	if adopted {
		accusing = broken
	}
	d, exempted, err := e.exemptNeeded(ctx, d, accusing, e.trials.repliers.on(d.block, time.Now()))
	if err != nil {
		err = errors.Join(err, e.undo())
	}
	e.setCondition(status.CondOpen, nil)
	if err != nil {
		return d, err
	}
	o := &trialRules{e, d}
	t := trial{
		probe: e.o.Host.Probe, outdated: o.outdated,
		with: o.apply, without: func(context.Context) error { return e.putBack() },
	}
	if exempted {
		if broken = t.failing(ctx, broken); len(broken) == 0 {
			return d, nil
		}
	}
	if !adopted {
		guilty, err := e.prove(ctx, t, broken, o)
		switch {
		case err != nil:
			return o.rules, errors.Join(err, e.undo())
		case len(guilty) > 0:
			return o.rules, &RollbackError{Broken: guilty, Entries: d.block.Len()}
		}
		e.o.Log.Info("The list is not the cause; it stays active", zap.Stringer("notReached", broken))
	}
	e.trials.recheck.start(broken)
	return o.rules, nil
}

// prove runs the trial t and returns the broken checks that are the fault of the rules. It rejects
// the rules if there are any. During the trial the rules are inactive for moments: the rules before
// them are active, or none. The status shows that.
func (e *Enforcer) prove(ctx context.Context, t trial, broken host.Checks, o *trialRules) (host.Checks, error) {
	if e.active.rules == nil {
		e.setStatus(func(s *status.Status) { s.Enforcing = status.StateUnprotected })
	}
	e.setCondition(status.CondTrial, fmt.Errorf("with the list of %s this host does not reach: %v",
		blocklist.Entries(o.rules.block.Len()), broken))
	defer e.setCondition(status.CondTrial, nil)
	guilty, err := t.prove(ctx, broken)
	if err == nil && len(guilty) > 0 {
		e.trials.rejected = &rejection{o.rules, guilty, time.Now()}
		e.countRollback()
	}
	return guilty, err
}

// applyRules has the kernel enforce d. It publishes the evidence and the time that the kernel took.
func (e *Enforcer) applyRules(ctx context.Context, d desired) (ruleset.Evidence, error) {
	end := e.o.Memory.Begin()
	ev, err := e.backend.fw.Apply(ctx, e.ruleset(d))
	end()
	if ev.Took > 0 { // the kernel was asked
		e.o.Board.ObserveApply(ev.Took)
	}
	if err == nil {
		v := &status.Verified{
			At: *status.ThisSecond(), Elements: ev.Elements, Counted: ev.Counted, Sampled: ev.Sampled,
			Seconds: ev.Took.Seconds(),
		}
		e.logGaps()
		e.setStatus(func(s *status.Status) { s.Verified = v })
		e.active.entries4, e.active.entries6 = ev.Entries4, ev.Entries6
	}
	return ev, err
}

func (e *Enforcer) ruleset(d desired) ruleset.Ruleset {
	return ruleset.Ruleset{Block: d.block, Allow: d.allow, LogGroup: e.o.LogGroup, LogRate: e.o.LogRate}
}

// setActive records d as the active rules, publishes that, and ends every repair and retry.
func (e *Enforcer) setActive(d desired) {
	e.active.rules, e.active.adopted, e.trials.rejected, e.attempts.stale = &d, false, nil, nil
	e.trials.baseline.reset()
	lists := e.lists()
	e.active.lists.Store(&lists)
	e.repair.cancel()
	e.publish()
	e.logAllowlisted(d)
}
