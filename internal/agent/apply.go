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
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
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
func (a *Agent) apply(ctx context.Context, d desired) error {
	if a.cfg.DryRun {
		a.tellDryRun(d)
		a.enforcer.entries4, a.enforcer.entries6 = d.block.Len4(), d.block.Len6()
		a.inForce(d)
		return nil
	}
	e := &a.enforcer
	// Rules that block nothing more than those in force can cut this host off from nothing. They need no proof, and an allowlist
	// that grows is in force within milliseconds.
	harmless := e.enforced != nil && coveredBy(d.block, e.enforced.block)
	if !harmless && e.rejected.of(d) {
		return &RollbackError{Entries: d.block.Len(), Again: true}
	}
	adopted := e.left
	var before host.Checks
	if !harmless {
		before = a.host.Probe(ctx)
	}
	ev, err := a.enact(ctx, d)
	switch {
	case errors.Is(err, firewall.ErrMismatch):
		err = fmt.Errorf("enforce the list of %s: %w", blocklist.Entries(d.block.Len()), err)
		if adopted {
			return err // the rules that the kernel has stay until the next attempt: the host is not left open
		}
		return errors.Join(err, a.undo())
	case err != nil:
		return err
	}
	if adopted {
		a.inForce(d) // in the place of the rules of the killed agent, and whatever a trial does, some are in force
	}
	if d, err = a.try(ctx, d, before, adopted); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err() // the agent is being stopped, and the probes with it: nothing can be said of the list
	}
	rejected, same := e.rejected, d.equal(e.enforced)
	a.inForce(d)
	if harmless && !rejected.of(d) {
		e.rejected = rejected // they are as harmful as before
	}
	a.tellBlocking(same)
	a.log.Debug("Verified in the kernel", zap.Int("elements", ev.Elements), zap.Bool("counted", ev.Counted),
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
func (a *Agent) try(ctx context.Context, d desired, before host.Checks, adopted bool) (desired, error) {
	broken := trial{probe: a.host.Probe}.broken(ctx, before)
	d, broken, err := a.rebase(ctx, d, broken)
	if err != nil {
		return d, errors.Join(err, a.undo())
	}
	if len(broken) == 0 {
		return d, nil
	}
	accusing := relayed(broken)
	if adopted {
		accusing = broken
	}
	d, exempted, err := a.exemptNeeded(ctx, d, accusing, a.answerers.on(d.block, time.Now()))
	if err != nil {
		err = errors.Join(err, a.undo())
	}
	a.setCondition(status.CondOpen, nil)
	if err != nil {
		return d, err
	}
	o := &onTrial{a, d}
	t := trial{probe: a.host.Probe, with: o.enforce, without: func(context.Context) error { return a.putBack() }, outdated: o.outdated}
	if exempted {
		if broken = t.failing(ctx, broken); len(broken) == 0 {
			return d, nil
		}
	}
	if !adopted {
		guilty, err := a.proof(ctx, t, broken, o)
		switch {
		case err != nil:
			return o.rules, errors.Join(err, a.undo())
		case len(guilty) > 0:
			return o.rules, &RollbackError{Broken: guilty, Entries: d.block.Len()}
		}
		a.log.Info("It is not the list; that stays in force", zap.Stringer("notReached", broken))
	}
	a.enforcer.doubt.about(broken)
	return o.rules, nil
}

// proof has t prove which of the broken checks are the fault of the rules, and rejects those if some
// are. The status says so meanwhile: they are out of force for moments, and the rules of before, or
// none, are in force.
func (a *Agent) proof(ctx context.Context, t trial, broken host.Checks, o *onTrial) (host.Checks, error) {
	if a.enforcer.enforced == nil {
		a.setStatus(func(s *status.Status) { s.Enforcing = status.StateUnprotected })
	}
	a.setCondition(status.CondTrial, fmt.Errorf("with the list of %s this host does not reach: %v", blocklist.Entries(o.rules.block.Len()), broken))
	defer a.setCondition(status.CondTrial, nil)
	guilty, err := t.prove(ctx, broken)
	if err == nil && len(guilty) > 0 {
		a.enforcer.rejected = &rejection{o.rules, time.Now()}
		a.setStatus(func(s *status.Status) { s.Rollbacks++ })
	}
	return guilty, err
}

// putBack puts in force what was before the list that is being tried: the rules of the list before, or none.
func (a *Agent) putBack() error {
	a.enforcer.left = false
	if a.enforcer.enforced == nil {
		return a.takeAway()
	}
	d, _ := a.rebased(*a.enforcer.enforced)
	_, err := a.enact(context.Background(), d) // finished even if the agent is being stopped
	if err == nil {
		a.enforcer.enforced = &d
	}
	return err
}

// undo is putBack after a failure. If it fails too, that is tried again until it works.
func (a *Agent) undo() error {
	err := a.putBack()
	if err != nil {
		err = fmt.Errorf("roll back: %w", err)
		a.enforcer.repair.lost(err)
	}
	return err
}

// enact has the kernel enforce d, and remembers what it answered and how long that took.
func (a *Agent) enact(ctx context.Context, d desired) (ruleset.Evidence, error) {
	ev, err := a.fw.Apply(ctx, a.ruleset(d))
	if ev.Took > 0 { // it was asked
		a.board.ObserveApply(ev.Took)
	}
	if err == nil {
		v := &status.Verified{
			At: *status.ThisSecond(), Elements: ev.Elements, Counted: ev.Counted, Sampled: ev.Sampled, Seconds: ev.Took.Seconds(),
		}
		a.tellGaps()
		a.setStatus(func(s *status.Status) { s.Verified = v })
		a.enforcer.entries4, a.enforcer.entries6 = ev.Entries4, ev.Entries6
	}
	return ev, err
}

func (a *Agent) ruleset(d desired) ruleset.Ruleset {
	return ruleset.Ruleset{Block: d.block, Allow: d.allow, LogGroup: a.cfg.NFLOGGroup, LogRate: a.cfg.LogRate}
}

// suspect accuses the list in force if a pull reached nothing.
func (a *Agent) suspect(ctx context.Context, pull error) {
	if unreached(pull) {
		a.accuse(ctx)
	}
}

// accuse tries whether the list in force is why something is not reached. A list is measured by the
// checks that worked before it, and at a boot none did; later the host may begin to depend on an
// address that is listed. So if answers to this host were dropped, their sources are let in for a
// moment. If more works then, and not without them again, those that are needed are exempted. Answers
// can be forged, so it is not tried often.
func (a *Agent) accuse(ctx context.Context) {
	e := &a.enforcer
	if a.cfg.DryRun || e.enforced == nil || time.Since(e.suspected) < suspectAgain ||
		len(a.answerers.on(e.enforced.block, time.Now())) == 0 {
		return
	}
	e.suspected = time.Now()
	broken := a.rebaseInForce(ctx, trial{probe: a.host.Probe}.unreached(ctx))
	d := *e.enforced
	candidates := a.answerers.on(d.block, time.Now()) // some have answered just now
	if len(broken) == 0 || len(candidates) == 0 {
		return
	}
	a.log.Warn("This host does not reach all that it needs, and answers to it are dropped; letting those in for a moment that answered",
		zap.Int("sources", len(candidates)), zap.Stringer("notReached", broken))
	defer a.setCondition(status.CondOpen, nil)
	let, exempted, err := a.exemptNeeded(ctx, d, broken, candidates)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		a.takeApplied(errors.Join(err, a.undo()))
		a.publish()
	case exempted:
		e.wait.Reset() // the pulls that failed did so because of the list
		a.inForce(let)
	default:
		a.follow(let)
		a.log.Info(fmt.Sprintf("It is not the list; blocking %d IPs as before", let.block.Len()))
	}
}

// unreached reports whether a pull failed because neither the API nor a proxy before it answered.
func unreached(pull error) bool {
	_, downloaded := errors.AsType[uselessError](pull)
	return sikkerapi.IsUnreached(pull) && !downloaded
}

// isForeign reports whether an answer is not the API's own, but of a proxy, CDN or portal before it.
func isForeign(err error) bool {
	api, ok := errors.AsType[*sikkerapi.APIError](err)
	return ok && api.Foreign
}

// inForce remembers what is in force.
func (a *Agent) inForce(d desired) {
	e := &a.enforcer
	e.enforced, e.left, e.rejected, e.stale = &d, false, nil, nil
	e.repair.done()
	a.publish()
	a.tellSaved(d)
}

// publishFailures makes the status say why the list that is wanted is not in force, each reason by itself.
func (a *Agent) publishFailures() {
	e := &a.enforcer
	var pull, refused, rolledBack, kernel error
	if _, ok := errors.AsType[*vet.RefusalError](e.failure); !ok {
		pull = e.failure
	}
	if e.refused.err != nil {
		refused = e.refused.err
	}
	if _, ok := errors.AsType[*RollbackError](e.unapplied); ok {
		rolledBack = e.unapplied
	} else {
		kernel = e.unapplied
	}
	switch own := e.own.rejected; {
	case own != nil && rolledBack != nil:
		rolledBack = fmt.Errorf("%w; %w", rolledBack, own.err)
	case own != nil:
		rolledBack = own.err
	}
	a.setCondition(status.CondRefresh, pull)
	a.setCondition(status.CondRefused, refused)
	a.setCondition(status.CondRolledBack, rolledBack)
	a.setCondition(status.CondKernel, kernel)
}

// publish makes the status say what is in force, and what is not as it should be.
func (a *Agent) publish() {
	e := &a.enforcer
	a.publishFailures()
	a.setCondition(status.CondWhitelist, e.stale)
	a.setCondition(status.CondCovered, e.covered())
	a.setCondition(status.CondEmpty, e.empty())
	var repairing error
	if e.repair.timer != nil {
		repairing = fmt.Errorf("the rules are being put right: %w", e.repair.err)
	}
	a.setCondition(status.CondRules, repairing)
	if !e.left && !a.cfg.DryRun {
		a.setCondition(status.CondLeft, nil)
	}
	a.setStatus(func(s *status.Status) {
		s.Enforcing = status.StateActive
		if e.enforced == nil {
			s.Enforcing = status.StateUnprotected
		}
		if e.enforced != nil && a.cfg.DryRun {
			s.WouldBlock, s.Custom = e.entries4+e.entries6, e.own.entries().Len()
		} else if e.enforced != nil {
			s.Blocked4, s.Blocked6, s.Custom = e.entries4, e.entries6, e.own.entries().Len()
			s.BlockedIPs = s.Blocked4 + s.Blocked6
		}
		if a.cfg.DryRun {
			s.Enforcing = status.StateDryRun
		}
	})
}
