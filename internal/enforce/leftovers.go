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

// leftoverInterval is how often a dry run looks for rules of other runs. With iptables that takes some
// tens of milliseconds.
const leftoverInterval = 30 * time.Second

// leftovers finds the rules of other runs: of agents that were killed, or that run beside a dry run.
type leftovers struct {
	names func() ([]string, error)
}

// find returns an error that names the rules of other runs that are in force, and why others may not
// be seen.
func (l leftovers) find() (left, unseen error) {
	names, err := l.names()
	if len(names) > 0 {
		left = errors.New(strings.Join(names, ", "))
	}
	return left, err
}

// adoptLeftovers notes at the start that rules of a killed agent are in force. The operator's whitelist
// holds for them at once; what else this host depends on follows with the first survey.
func (e *Enforcer) adoptLeftovers() {
	left, _ := e.backend.leftovers.find() // an error is a gap of the backend
	if left == nil {
		return
	}
	e.active.adopted = true
	e.backend.gate.use()
	e.setCondition(status.CondLeft, left)
	e.o.Log.Info("The rules of an agent that was killed are in force until a list replaces them")
	e.admit(context.Background(), blocklist.New(e.o.Allow))
}

// admit has the rules of a killed agent let through what is whitelisted now, while they are in force.
func (e *Enforcer) updateAdopted(ctx context.Context) {
	if !e.active.adopted || ctx.Err() != nil {
		return
	}
	if left, unseen := e.backend.leftovers.find(); left == nil && unseen == nil { // another program ended them
		e.active.adopted = false
		e.setCondition(status.CondLeft, nil)
		return
	}
	e.admit(ctx, e.allowed())
}

func (e *Enforcer) admit(ctx context.Context, allow blocklist.Blocklist) {
	if err := e.backend.fw.Admit(ctx, ruleset.Ruleset{Allow: allow}); err != nil && ctx.Err() == nil {
		e.o.Log.Warn("The rules of an agent that was killed do not take the whitelist of this one; stop this one and run `sikkerguard cleanup` "+
			"if they block what is needed", zap.Error(err))
	}
}

// CheckLeftovers makes conditions of the rules of other runs that are in force while this one is
// dry. A dry run touches them as little as anything, and must not say that nothing is blocked.
func (e *Enforcer) CheckLeftovers() {
	left, unseen := e.backend.leftovers.find()
	if left != nil {
		unseen = nil // that rules block is known
	}
	e.setCondition(status.CondLeft, left)
	e.setCondition(status.CondLeftUnseen, unseen)
}

// WatchLeftovers looks for rules of other runs until ctx ends.
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
