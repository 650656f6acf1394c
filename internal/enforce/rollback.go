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
	list := blocklist.Entries(e.Entries)
	switch {
	case e.Own && len(e.Broken) == 0:
		return fmt.Sprintf("the custom blacklist of %s was rolled back, because with it this host reaches less", list)
	case e.Own:
		return fmt.Sprintf("the custom blacklist of %s was rolled back, "+
			"because with it this host no longer reaches: %v; "+
			"add its addresses to SIKKER_WHITELIST, or remove them from the file", list, e.Broken)
	case e.Again:
		return fmt.Sprintf("the list of %s was rolled back before; it is applied again when it changes, "+
			"after %s, or by `sikkerguard pull --accept`", list, status.Short(rejectedFor))
	}
	return fmt.Sprintf("the list of %s was rolled back, because with it this host no longer reaches: %v; "+
		"add its addresses to SIKKER_WHITELIST", list, e.Broken)
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

// rejection is a ruleset that was proven to cut this host off. It is not applied again for
// rejectedFor.
type rejection struct {
	rules desired
	at    time.Time
}

// of reports whether d is the rejected ruleset. For a nil rejection it returns false.
func (r *rejection) of(d desired) bool {
	return r != nil && time.Since(r.at) < rejectedFor && d.equal(&r.rules)
}

// left returns how long the rejection lasts.
func (r *rejection) left() time.Duration {
	if r == nil {
		return 0
	}
	return max(0, rejectedFor-time.Since(r.at))
}
