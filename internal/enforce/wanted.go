package enforce

import (
	"context"
	"errors"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// putInForce puts the wanted rules in force. They contain a list that was accepted and is not in
// force yet. If that list is proven to cut this host off, the rules are made of the list before it.
// An error is remembered, and putInForce is called again later.
func (e *Enforcer) putInForce(ctx context.Context) error {
	e.unapplied = nil // it is published when the list is in force
	err := e.applyWanted(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e.takeApplied(err)
	return err
}

// takeApplied remembers the result of an attempt to put the wanted rules in force, and schedules
// the next.
func (e *Enforcer) takeApplied(err error) {
	e.unapplied = err
	e.remember(err, status.ApplyError)
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

func (e *Enforcer) applyWanted(ctx context.Context) error {
	if e.fresh == nil {
		// If nothing would change, or there is nothing to block yet, the kernel is left alone.
		want := e.wanted()
		if want.equal(e.enforced) || e.enforced == nil && want.block.Len() == 0 {
			return nil
		}
		return e.applyNewest(ctx)
	}
	before := pulled{e.pulled, e.pulledAt, e.kept}
	e.setPulled(*e.fresh)
	err := e.applyNewest(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		e.fresh, e.wasted = nil, 0
		e.keepList()
		return nil
	}
	e.setPulled(before) // the status speaks of what is in force
	if _, rolledBack := errors.AsType[*RollbackError](err); rolledBack {
		// The whitelist or the operator's list may have changed as well.
		if want := e.wanted(); !want.equal(e.enforced) && (e.enforced != nil || want.block.Len() > 0) {
			err = errors.Join(err, e.applyNewest(ctx))
		}
	}
	return err
}

// tryAgain puts the wanted rules in force after a failure, without a pull.
func (e *Enforcer) tryAgain(ctx context.Context) {
	e.retry.Stop()
	if err := e.putInForce(ctx); err != nil && ctx.Err() == nil {
		e.tellFailure(e.retry.Left())
	}
	e.publish()
}

// setPulled remembers the API's list of what is in force, or is being put in force.
func (e *Enforcer) setPulled(p pulled) {
	e.pulled, e.pulledAt, e.kept = p.list, p.at, p.kept
	if e.o.Listed != nil {
		e.o.Listed(e.pulled)
	}
	e.setStatus(func(s *status.Status) {
		s.PulledAt, s.Kept = p.at, p.kept
	})
}

// keepList makes the list, which is in force, the one that the next is measured against and that
// the next start begins with.
func (e *Enforcer) keepList() {
	if e.kept { // it is there, and restore knows what is measured against it
		return
	}
	e.baseline = e.pulled.Len()
	e.feed.InForce(e.baseline, e.clock.Now().Wall)
	if e.o.DryRun {
		return
	}
	e.write()
}

// write has the list in force written to the disk.
func (e *Enforcer) write() {
	list, at := e.pulled, e.clock.WallOf(e.pulledAt)
	e.keeper.keep(func() error { return e.feed.Keep(list, at) })
}

// takeKept takes the result of a write of the list.
func (e *Enforcer) takeKept(err error) {
	k := e.keeper
	failed := k.failed
	switch written := k.done(err); {
	case written:
		if failed {
			e.log.Info("The list is kept now")
		}
		e.setCondition(status.CondUnkept, nil)
	case err != nil:
		e.tellUnkept(failed, err)
	}
}

// keepHangs takes note of a disk that does not take the list.
func (e *Enforcer) keepHangs() {
	k := e.keeper
	failed := k.failed
	k.hung()
	e.tellUnkept(failed, errKeeping)
}

// tellUnkept makes the status say why the list is not on the disk. That is logged if no earlier
// write has failed.
func (e *Enforcer) tellUnkept(failed bool, err error) {
	if !failed {
		e.warnOfDisk("The list cannot be kept: a start without the API would not protect", err)
	}
	e.setCondition(status.CondUnkept, err)
}
