package enforce

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// leftoverInterval is how often a dry run checks for rules of other runs. With iptables one check
// takes some tens of milliseconds.
const leftoverInterval = 30 * time.Second

// leftovers finds the rules of other runs: of a killed agent, or of an agent that runs beside a dry
// run.
type leftovers struct {
	names func() ([]string, error)
}

// find returns as left an error that names the active rules of other runs, and as unseen the reason
// why there may be rules that it cannot find.
func (l leftovers) find() (left, unseen error) {
	names, err := l.names()
	if len(names) > 0 {
		left = errors.New(strings.Join(names, ", "))
	}
	return left, err
}

// adoptLeftovers records at the start that rules of a killed agent are active. It adds the
// operator's allowlist to them at once. The addresses that the host depends on follow with the
// first survey.
func (e *Enforcer) adoptLeftovers() {
	left, _ := e.backend.leftovers.find() // the error is a gap of the backend
	if left == nil {
		return
	}
	e.active.adopted = true
	e.backend.gate.use()
	e.setCondition(status.CondLeft, left)
	e.admit(context.Background(), blocklist.New(e.o.Allow))
}

// updateAdopted adds the newest allowlist to the rules of a killed agent while they are active.
func (e *Enforcer) updateAdopted(ctx context.Context) {
	if !e.active.adopted || ctx.Err() != nil {
		return
	}
	if left, unseen := e.backend.leftovers.find(); left == nil && unseen == nil { // another program removed them
		e.active.adopted = false
		e.setCondition(status.CondLeft, nil)
		return
	}
	e.admit(ctx, e.allowed())
}

// admit adds allow to the allowlist of the rules of a killed agent.
func (e *Enforcer) admit(ctx context.Context, allow blocklist.Blocklist) {
	if err := e.backend.fw.Admit(ctx, ruleset.Ruleset{Allow: allow}); err != nil && ctx.Err() == nil {
		e.o.Log.Warn("Rules of a killed agent do not take the allowlist; "+
			"if they block needed addresses, stop this agent and run `sikkerguard cleanup`", zap.Error(err))
	}
}

// CheckLeftovers sets a condition if rules of other runs are active, or may be, during a dry run. A
// dry run changes no rules, and must not report that nothing is blocked while they are active.
func (e *Enforcer) CheckLeftovers() {
	left, unseen := e.backend.leftovers.find()
	if left != nil {
		unseen = nil // that rules block traffic is known
	}
	e.setCondition(status.CondLeft, left)
	e.setCondition(status.CondLeftUnseen, unseen)
}

// WatchLeftovers calls CheckLeftovers at every leftoverInterval, until ctx ends.
func (e *Enforcer) WatchLeftovers(ctx context.Context) error {
	ticker := time.NewTicker(leftoverInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			e.CheckLeftovers()
		}
	}
}
