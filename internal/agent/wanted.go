package agent

import (
	"context"
	"errors"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// putInForce puts the wanted rules in force. They contain a list that was accepted and is not in
// force yet. If that list is proven to cut this host off, the rules are made of the list before it.
// An error is remembered, and putInForce is called again later.
func (a *Agent) putInForce(ctx context.Context) error {
	a.enforcer.unapplied = nil // it is published when the list is in force
	err := a.applyWanted(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.takeApplied(err)
	return err
}

// takeApplied remembers the result of an attempt to put the wanted rules in force, and schedules
// the next.
func (a *Agent) takeApplied(err error) {
	e := &a.enforcer
	e.unapplied = err
	a.remember(err, status.ApplyError)
	_, rolledBack := errors.AsType[*RollbackError](err)
	switch {
	case err == nil:
		e.retry.Reset()
	case rolledBack:
		e.retry.In(e.rejected.left() + clock.LeastWait)
	default:
		e.retry.Schedule()
	}
}

func (a *Agent) applyWanted(ctx context.Context) error {
	e := &a.enforcer
	if e.fresh == nil {
		// If nothing would change, or there is nothing to block yet, the kernel is left alone.
		want := a.wanted()
		if want.equal(e.enforced) || e.enforced == nil && want.block.Len() == 0 {
			return nil
		}
		return a.applyNewest(ctx)
	}
	before := pulled{e.pulled, e.pulledAt, e.kept}
	a.setPulled(*e.fresh)
	err := a.applyNewest(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		e.fresh, e.wasted = nil, 0
		a.keepList()
		return nil
	}
	a.setPulled(before) // the status speaks of what is in force
	if _, rolledBack := errors.AsType[*RollbackError](err); rolledBack {
		// The whitelist or the operator's list may have changed as well.
		if want := a.wanted(); !want.equal(e.enforced) && (e.enforced != nil || want.block.Len() > 0) {
			err = errors.Join(err, a.applyNewest(ctx))
		}
	}
	return err
}

// tryAgain puts the wanted rules in force after a failure, without a pull.
func (a *Agent) tryAgain(ctx context.Context) {
	e := &a.enforcer
	e.retry.Stop()
	if err := a.putInForce(ctx); err != nil && ctx.Err() == nil {
		a.tellFailure(e.retry.Left())
	}
	a.publish()
}

// setPulled remembers the API's list of what is in force, or is being put in force.
func (a *Agent) setPulled(p pulled) {
	e := &a.enforcer
	e.pulled, e.pulledAt, e.kept = p.list, p.at, p.kept
	if a.recorder != nil {
		a.recorder.SetListed(e.pulled)
	}
	a.setStatus(func(s *status.Status) {
		s.PulledAt, s.Kept = p.at, p.kept
	})
}

// keepList makes the list, which is in force, the one that the next is measured against and that
// the next start begins with.
func (a *Agent) keepList() {
	e := &a.enforcer
	if e.kept { // it is there, and restore knows what is measured against it
		return
	}
	e.baseline = e.pulled.Len()
	a.feed.InForce(e.baseline, a.clock.Now().Wall)
	if a.cfg.DryRun {
		return
	}
	a.write()
}

// write has the list in force written to the disk.
func (a *Agent) write() {
	e := &a.enforcer
	list, at := e.pulled, a.clock.WallOf(e.pulledAt)
	e.keeper.keep(func() error { return a.feed.Keep(list, at) })
}

// takeKept takes the result of a write of the list.
func (a *Agent) takeKept(err error) {
	k := a.enforcer.keeper
	failed := k.failed
	switch written := k.done(err); {
	case written:
		if failed {
			a.log.Info("The list is kept now")
		}
		a.setCondition(status.CondUnkept, nil)
	case err != nil:
		a.tellUnkept(failed, err)
	}
}

// keepHangs takes note of a disk that does not take the list.
func (a *Agent) keepHangs() {
	k := a.enforcer.keeper
	failed := k.failed
	k.hung()
	a.tellUnkept(failed, errKeeping)
}

// tellUnkept makes the status say why the list is not on the disk. That is logged if no earlier
// write has failed.
func (a *Agent) tellUnkept(failed bool, err error) {
	if !failed {
		a.warnOfDisk("The list cannot be kept: a start without the API would not protect", err)
	}
	a.setCondition(status.CondUnkept, err)
}
