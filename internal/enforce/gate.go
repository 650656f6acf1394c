package enforce

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// gate is a firewall that can be closed to new rules. When the agent stops, the rules are removed
// at once; a task that is slow to end, and perhaps rolls a list back just then, must not put any
// there again.
type gate struct {
	firewall.Backend

	used   atomic.Bool // there were rules, of this run or of one before
	mu     sync.RWMutex
	closed bool
}

// Apply is the firewall's, until the gate is closed; then it is context.Canceled.
func (g *gate) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	g.mu.RLock() // held all the while: shut waits for an Apply that is under way
	defer g.mu.RUnlock()
	if g.closed {
		return ruleset.Evidence{}, context.Canceled
	}
	g.use()
	return g.Backend.Apply(ctx, rs)
}

// use takes note of rules that there are, which can be removed.
func (g *gate) use() {
	if g != nil {
		g.used.Store(true)
	}
}

// shut closes the gate, after an Apply that is under way.
func (g *gate) shut() {
	if g == nil { // nothing was opened
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
