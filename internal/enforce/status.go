package enforce

import (
	"errors"
	"fmt"

	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// counts are the figures of the status that only grow. The Enforcer holds them, because the board
// is never read back. They belong to the goroutine of Run.
type counts struct {
	pulls     status.Counts // by result
	refused   status.Counts // by guard
	rollbacks int
	repairs   int
}

// countPull counts a pull by its result.
func (e *Enforcer) countPull(err error) {
	c := &e.counts
	c.pulls = c.pulls.With(pullResult(err))
	pulls := c.pulls
	e.setStatus(func(s *status.Status) { s.Pulls = pulls })
}

// countRefusal counts a refused list by its guard.
func (e *Enforcer) countRefusal(guard vet.Guard) {
	c := &e.counts
	c.refused = c.refused.With(string(guard))
	refused := c.refused
	e.setStatus(func(s *status.Status) { s.Refused = refused })
}

// countRollback counts a list that was proven to cut this host off.
func (e *Enforcer) countRollback() {
	e.counts.rollbacks++
	n := e.counts.rollbacks
	e.setStatus(func(s *status.Status) { s.Rollbacks = n })
}

// countRepair counts a repair of rules that another program changed.
func (e *Enforcer) countRepair() {
	e.counts.repairs++
	n := e.counts.repairs
	e.setStatus(func(s *status.Status) { s.Repairs = n })
}

// publish publishes the active rules and all conditions of the enforcement.
func (e *Enforcer) publish() {
	e.publishFailures()
	e.setCondition(status.CondWhitelist, e.attempts.stale)
	e.setCondition(status.CondCovered, e.covered())
	e.setCondition(status.CondEmpty, e.empty())
	var repairing error
	if e.repair.timer != nil {
		repairing = fmt.Errorf("the rules are being restored: %w", e.repair.err)
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

// publishFailures publishes why the wanted rules are not active, each reason as a condition of its
// own.
func (e *Enforcer) publishFailures() {
	rolledBack, kernel := splitRollbacks(e.attempts.err)
	noList := e.eachRemote(func(r *remote) error {
		if errors.Is(r.failure, errNotPulled) {
			return errNotPulled
		}
		return nil
	})
	pull := e.eachRemote(func(r *remote) error {
		if _, ok := errors.AsType[*vet.RefusalError](r.failure); ok || errors.Is(r.failure, errNotPulled) {
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
	switch own := e.own.rejected; {
	case own != nil && rolledBack != nil:
		rolledBack = fmt.Errorf("%w; %w", rolledBack, own.err)
	case own != nil:
		rolledBack = own.err
	}
	e.setCondition(status.CondRefresh, pull)
	e.setCondition(status.CondNoList, noList)
	e.setCondition(status.CondRefused, refused)
	e.setCondition(status.CondRolledBack, rolledBack)
	e.setCondition(status.CondKernel, kernel)
}

// setStatus, setCondition and setError write to the board.
func (e *Enforcer) setStatus(change func(*status.Status)) { e.o.Board.Update(change) }

func (e *Enforcer) setCondition(code status.Code, err error) { e.o.Board.SetCondition(code, err) }

func (e *Enforcer) setError(err error, field status.ErrorField) { e.o.Board.SetError(field, err) }
