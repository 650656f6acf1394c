package enforce

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
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// suspectAgain is how long after a list was suspected it may be again.
const suspectAgain = 5 * time.Minute

// RollbackError is a list that was taken out of force again, because it was proven to cut this host off.
type RollbackError struct {
	Broken  host.Checks // the checks that fail with the list and work without it
	Entries int         // of the list
	Again   bool        // it is the list that was rolled back before, and was not tried again
	Own     bool        // it is the operator's list
}

func (e *RollbackError) Error() string {
	switch {
	case e.Own && len(e.Broken) == 0:
		return fmt.Sprintf("the custom blacklist of %s was rolled back, because with it this host reaches less", blocklist.Entries(e.Entries))
	case e.Own:
		return fmt.Sprintf("the custom blacklist of %s was rolled back, because with it this host no longer reaches: %v; "+
			"add its addresses to SIKKER_WHITELIST, or take them out of the file", blocklist.Entries(e.Entries), e.Broken)
	case e.Again:
		return fmt.Sprintf("the list of %s is the one that was rolled back; it is tried again when it differs, after %s, or by "+
			"`sikkerguard pull --accept`", blocklist.Entries(e.Entries), status.Short(rejectedFor))
	}
	return fmt.Sprintf("the list of %s was rolled back, because with it this host no longer reaches: %v; "+
		"add its addresses to SIKKER_WHITELIST", blocklist.Entries(e.Entries), e.Broken)
}

// apply puts d in force, and says so after the kernel was asked. The checks of this host are made before and after. If one fails
// that worked before, d is tried: it is taken out of force again only if it is proven to be why.
func (e *Enforcer) apply(ctx context.Context, d desired) error {
	if e.o.DryRun {
		e.tellDryRun(d)
		e.active.entries4, e.active.entries6 = d.block.Len4(), d.block.Len6()
		e.inForce(d)
		return nil
	}
	// Rules that block nothing more than those in force can cut this host off from nothing. They need no proof, and an allowlist
	// that grows is in force within milliseconds.
	harmless := e.active.rules != nil && coveredBy(d.block, e.active.rules.block)
	if !harmless && e.trials.rejected.of(d) {
		return &RollbackError{Entries: d.block.Len(), Again: true}
	}
	adopted := e.active.adopted
	var before host.Checks
	if !harmless {
		before = e.o.Host.Probe(ctx)
	}
	ev, err := e.enact(ctx, d)
	switch {
	case errors.Is(err, firewall.ErrMismatch):
		err = fmt.Errorf("enforce the list of %s: %w", blocklist.Entries(d.block.Len()), err)
		if adopted {
			return err // the rules that the kernel has stay until the next attempt: the host is not left open
		}
		return errors.Join(err, e.undo())
	case err != nil:
		return err
	}
	if adopted {
		e.inForce(d) // in the place of the rules of the killed agent, and whatever a trial does, some are in force
	}
	if d, err = e.try(ctx, d, before, adopted); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err() // the agent is being stopped, and the probes with it: nothing can be said of the list
	}
	rejected, same := e.trials.rejected, d.equal(e.active.rules)
	e.inForce(d)
	if harmless && !rejected.of(d) {
		e.trials.rejected = rejected // they are as harmful as before
	}
	e.tellBlocking(same)
	e.o.Log.Debug("Verified in the kernel", zap.Int("elements", ev.Elements), zap.Bool("counted", ev.Counted),
		zap.Int("sampled", ev.Sampled), zap.Duration("took", ev.Took))
	return nil
}

// coveredBy reports whether outer covers every entry of inner.
func coveredBy(inner, outer blocklist.Blocklist) bool {
	for p := range inner.All() {
		if q, ok := outer.Covering(p.Addr()); !ok || q.Bits() > p.Bits() {
			return false
		}
	}
	return true
}

// try returns the rules in force if d, which has just been put in force, is not proven to cut this host off from what it
// reached before: d, or d with addresses let through that this host needs. Else d is out of force, and the error is a
// *RollbackError. Rules of a killed agent that d replaced cannot be put back, so after those d is never taken out whole:
// the host is not left open.
func (e *Enforcer) try(ctx context.Context, d desired, before host.Checks, adopted bool) (desired, error) {
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
	d, exempted, err := e.exemptNeeded(ctx, d, accusing, e.trials.answerers.on(d.block, time.Now()))
	if err != nil {
		err = errors.Join(err, e.undo())
	}
	e.setCondition(status.CondOpen, nil)
	if err != nil {
		return d, err
	}
	o := &onTrial{e, d}
	t := trial{probe: e.o.Host.Probe, with: o.enforce, without: func(context.Context) error { return e.putBack() }, outdated: o.outdated}
	if exempted {
		if broken = t.failing(ctx, broken); len(broken) == 0 {
			return d, nil
		}
	}
	if !adopted {
		guilty, err := e.proof(ctx, t, broken, o)
		switch {
		case err != nil:
			return o.rules, errors.Join(err, e.undo())
		case len(guilty) > 0:
			return o.rules, &RollbackError{Broken: guilty, Entries: d.block.Len()}
		}
		e.o.Log.Info("It is not the list; that stays in force", zap.Stringer("notReached", broken))
	}
	e.trials.doubt.about(broken)
	return o.rules, nil
}

// proof has t prove which of the broken checks are the fault of the rules, and rejects those if some
// are. The status says so meanwhile: they are out of force for moments, and the rules of before, or
// none, are in force.
func (e *Enforcer) proof(ctx context.Context, t trial, broken host.Checks, o *onTrial) (host.Checks, error) {
	if e.active.rules == nil {
		e.setStatus(func(s *status.Status) { s.Enforcing = status.StateUnprotected })
	}
	e.setCondition(status.CondTrial, fmt.Errorf("with the list of %s this host does not reach: %v", blocklist.Entries(o.rules.block.Len()), broken))
	defer e.setCondition(status.CondTrial, nil)
	guilty, err := t.prove(ctx, broken)
	if err == nil && len(guilty) > 0 {
		e.trials.rejected = &rejection{o.rules, time.Now()}
		e.setStatus(func(s *status.Status) { s.Rollbacks++ })
	}
	return guilty, err
}

// putBack puts in force what was before the list that is being tried: the rules of the list before, or none.
func (e *Enforcer) putBack() error {
	e.active.adopted = false
	if e.active.rules == nil {
		return e.takeAway()
	}
	d, _ := e.rebased(*e.active.rules)
	_, err := e.enact(context.Background(), d) // finished even if the agent is being stopped
	if err == nil {
		e.active.rules = &d
	}
	return err
}

// undo is putBack after a failure. If it fails too, that is tried again until it works.
func (e *Enforcer) undo() error {
	err := e.putBack()
	if err != nil {
		err = fmt.Errorf("roll back: %w", err)
		e.repair.lost(err)
	}
	return err
}

// enact has the kernel enforce d, and remembers what it answered and how long that took.
func (e *Enforcer) enact(ctx context.Context, d desired) (ruleset.Evidence, error) {
	ev, err := e.backend.fw.Apply(ctx, e.ruleset(d))
	if ev.Took > 0 { // it was asked
		e.o.Board.ObserveApply(ev.Took)
	}
	if err == nil {
		v := &status.Verified{
			At: *status.ThisSecond(), Elements: ev.Elements, Counted: ev.Counted, Sampled: ev.Sampled, Seconds: ev.Took.Seconds(),
		}
		e.tellGaps()
		e.setStatus(func(s *status.Status) { s.Verified = v })
		e.active.entries4, e.active.entries6 = ev.Entries4, ev.Entries6
	}
	return ev, err
}

func (e *Enforcer) ruleset(d desired) ruleset.Ruleset {
	return ruleset.Ruleset{Block: d.block, Allow: d.allow, LogGroup: e.o.LogGroup, LogRate: e.o.LogRate}
}

// suspect accuses the list in force if a pull reached nothing.
func (e *Enforcer) suspect(ctx context.Context, pull error) {
	if unreached(pull) {
		e.accuse(ctx)
	}
}

// accuse tries whether the list in force is why something is not reached. A list is measured by the
// checks that worked before it, and at a boot none did; later the host may begin to depend on an
// address that is listed. So if answers to this host were dropped, their sources are let in for a
// moment. If more works then, and not without them again, those that are needed are exempted. Answers
// can be forged, so it is not tried often.
func (e *Enforcer) accuse(ctx context.Context) {
	if e.o.DryRun || e.active.rules == nil || time.Since(e.trials.suspected) < suspectAgain ||
		len(e.trials.answerers.on(e.active.rules.block, time.Now())) == 0 {
		return
	}
	e.trials.suspected = time.Now()
	broken := e.rebaseInForce(ctx, trial{probe: e.o.Host.Probe}.unreached(ctx))
	d := *e.active.rules
	candidates := e.trials.answerers.on(d.block, time.Now()) // some have answered just now
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
		e.takeApplied(errors.Join(err, e.undo()))
		e.publish()
	case exempted:
		for _, r := range e.remotes {
			r.wait.Reset() // the pulls that failed did so because of the list
		}
		e.inForce(let)
	default:
		e.follow(let)
		e.o.Log.Info(fmt.Sprintf("It is not the list; blocking %d IPs as before", let.block.Len()))
	}
}

// inForce remembers what is in force.
func (e *Enforcer) inForce(d desired) {
	e.active.rules, e.active.adopted, e.trials.rejected, e.attempts.stale = &d, false, nil, nil
	e.repair.done()
	e.publish()
	e.tellSaved(d)
}

// publishFailures makes the status say why the list that is wanted is not in force, each reason by itself.
func (e *Enforcer) publishFailures() {
	var rolledBack, kernel error
	pull := e.eachRemote(func(r *remote) error {
		if _, ok := errors.AsType[*vet.RefusalError](r.failure); ok {
			return nil
		}
		return r.failure
	})
	refused := e.eachRemote(func(r *remote) error {
		if r.refused.err == nil {
			return nil
		}
		return r.refused.err
	})
	if _, ok := errors.AsType[*RollbackError](e.attempts.err); ok {
		rolledBack = e.attempts.err
	} else {
		kernel = e.attempts.err
	}
	switch own := e.own.rejected; {
	case own != nil && rolledBack != nil:
		rolledBack = fmt.Errorf("%w; %w", rolledBack, own.err)
	case own != nil:
		rolledBack = own.err
	}
	e.setCondition(status.CondRefresh, pull)
	e.setCondition(status.CondRefused, refused)
	e.setCondition(status.CondRolledBack, rolledBack)
	e.setCondition(status.CondKernel, kernel)
}

// eachRemote joins the errors that get returns for the feeds. If there are several feeds, each error names its own.
func (e *Enforcer) eachRemote(get func(*remote) error) error {
	if len(e.remotes) == 1 {
		return get(e.remotes[0])
	}
	var all []error
	for _, r := range e.remotes {
		if err := get(r); err != nil {
			all = append(all, fmt.Errorf("%s: %w", r.feed.Name(), err))
		}
	}
	return errors.Join(all...)
}

// publish makes the status say what is in force, and what is not as it should be.
func (e *Enforcer) publish() {
	e.publishFailures()
	e.setCondition(status.CondWhitelist, e.attempts.stale)
	e.setCondition(status.CondCovered, e.covered())
	e.setCondition(status.CondEmpty, e.empty())
	var repairing error
	if e.repair.timer != nil {
		repairing = fmt.Errorf("the rules are being put right: %w", e.repair.err)
	}
	e.setCondition(status.CondRules, repairing)
	if !e.active.adopted && !e.o.DryRun {
		e.setCondition(status.CondLeft, nil)
	}
	e.setStatus(func(s *status.Status) {
		s.Enforcing = status.StateActive
		if e.active.rules == nil {
			s.Enforcing = status.StateUnprotected
		}
		if e.active.rules != nil && e.o.DryRun {
			s.WouldBlock, s.Custom = e.active.entries4+e.active.entries6, e.own.entries().Len()
		} else if e.active.rules != nil {
			s.Blocked4, s.Blocked6, s.Custom = e.active.entries4, e.active.entries6, e.own.entries().Len()
			s.BlockedIPs = s.Blocked4 + s.Blocked6
		}
		if e.o.DryRun {
			s.Enforcing = status.StateDryRun
		}
	})
}
