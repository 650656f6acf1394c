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
		e.saveList()
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

// saveList makes the active list the one that the guards measure the next one against, and has it written to the disk for
// the next start.
func (e *Enforcer) saveList() {
	if e.kept { // it is on the disk, and restore has set the baseline
		return
	}
	e.baseline = e.pulled.Len()
	e.feed.InForce(e.baseline, e.clock.Now().Wall)
	if !e.o.DryRun {
		e.writeList()
	}
}

// writeList has the active list written to the disk.
func (e *Enforcer) writeList() {
	list, at := e.pulled, e.clock.WallOf(e.pulledAt)
	e.saver.save(func() error { return e.feed.Keep(list, at) })
}

// reportList makes the status say whether the list is on the disk, and logs each change of that.
func (e *Enforcer) reportList(err error, changed bool) {
	switch {
	case err == nil && changed:
		e.log.Info("The list is saved now")
	case err != nil && changed:
		e.warnOfDisk("The list cannot be saved; a start without the API would not protect", err)
	}
	e.setCondition(status.CondUnkept, err)
}
