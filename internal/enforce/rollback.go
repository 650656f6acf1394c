package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// RollbackError reports that a list was rolled back because it was proven to cut this host off.
type RollbackError struct {
	Broken  host.Checks // the checks that fail with the list and work without it
	Entries int         // of the list
	Again   bool        // the list was rolled back before, and was not applied again
	Own     bool        // it is the operator's list
}

func (e *RollbackError) Error() string {
	list, before, remedy := "list", "", "add the addresses of these to SIKKER_WHITELIST"
	if e.Own {
		list, remedy = "custom blacklist", remedy+", or remove them from the file"
	}
	if e.Again {
		before = " before"
		remedy += fmt.Sprintf("; it is applied again when it changes, after %s, or by `sikkerguard pull --accept`",
			status.Short(rejectedFor))
	}
	return fmt.Sprintf("the %s of %s was rolled back%s, because with it this host no longer reaches: %v; %s",
		list, blocklist.Entries(e.Entries), before, e.Broken, remedy)
}

// isRollback reports whether err contains a *RollbackError.
func isRollback(err error) bool {
	_, rolledBack := errors.AsType[*RollbackError](err)
	return rolledBack
}

// putBack restores the rules that were active before the list on trial, or none.
func (e *Enforcer) putBack() error {
	e.active.adopted = false
	if e.active.rules == nil {
		return e.removeRules()
	}
	d, _ := e.rebased(*e.active.rules)
	_, err := e.applyRules(context.Background(), d) // continues if the agent is being stopped
	if err == nil {
		e.active.rules = &d
	}
	return err
}

// undo calls putBack after a failure. If putBack also fails, a repair is scheduled.
func (e *Enforcer) undo() error {
	err := e.putBack()
	if err != nil {
		err = fmt.Errorf("roll back: %w", err)
		e.repair.schedule(err)
	}
	return err
}

// splitRollbacks returns the rollbacks among joined errors, and the others.
func splitRollbacks(err error) (rollbacks, others error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			r, o := splitRollbacks(err)
			rollbacks, others = errors.Join(rollbacks, r), errors.Join(others, o)
		}
		return rollbacks, others
	}
	if isRollback(err) {
		return err, nil
	}
	return nil, err
}

// rejection records that rules were proven to cut this host off. They are not applied again for
// rejectedFor.
type rejection struct {
	rules  desired     // of the list of one feed: its entries less the allowlist, and no allowlist
	broken host.Checks // that fail with the rules
	at     time.Time
}

// of reports whether d is the rejected ruleset. For a nil rejection it returns false.
func (r *rejection) of(d desired) bool {
	return r != nil && time.Since(r.at) < rejectedFor && d.equal(&r.rules)
}

// again returns the error of another attempt to apply the rules.
func (r *rejection) again() error {
	return &RollbackError{Broken: r.broken, Entries: r.rules.block.Len(), Again: true}
}

// left returns how long the rejection lasts; 0 for a nil rejection.
func (r *rejection) left() time.Duration {
	if r == nil {
		return 0
	}
	return max(0, rejectedFor-time.Since(r.at))
}

// rejectedFresh returns an error if the fresh list of r was rolled back and is not applied again
// yet.
func (r *remote) rejectedFresh(allow blocklist.Blocklist) error {
	if r.fresh == nil || !r.rejected.of(desired{block: r.fresh.entries.Without(allow)}) {
		return nil
	}
	return r.rejected.again()
}

// rejectFresh records that the fresh list of r was rejected, if it is the only difference between
// the entries of the rejected rules and those of the active rules. The list stays rejected while
// those of other feeds change.
func (e *Enforcer) rejectFresh(r *remote) {
	if cause := e.trials.rejected; cause != nil && e.active.blocks(e.wanted().block) {
		list := r.fresh.entries.Without(cause.rules.allow)
		r.rejected = &rejection{desired{block: list}, cause.broken, cause.at}
	}
}

// rejectedLeft returns the shortest time for which rules or a list are still rejected.
func (e *Enforcer) rejectedLeft() time.Duration {
	least := e.trials.rejected.left()
	for _, r := range e.remotes {
		if left := r.rejected.left(); left > 0 && (least == 0 || left < least) {
			least = left
		}
	}
	return least
}
