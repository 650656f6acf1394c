package enforce

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// backend is the firewall and its counters.
type backend struct {
	fw        firewall.Backend // nil before Open, and in a dry run
	gate      *gate            // fw, once it was opened
	gaps      []string         // of the firewall, that were logged
	leftovers leftovers
	ledger    *counters.Ledger
	lostC     chan error // capacity 1: the rules are no longer the ones that were applied
}

// errNotOpen is the answer to a question about the kernel before Open.
var errNotOpen = errors.New("the firewall is not open")

// newLedger returns a ledger of the kernel's counters.
func (e *Enforcer) newLedger() *counters.Ledger {
	return counters.New(counters.Options{
		Kernel: func() (ruleset.Counters, error) {
			if e.backend.fw == nil {
				return ruleset.Counters{}, errNotOpen
			}
			return e.backend.fw.Counters()
		},
		Stored: e.o.Counters,
	})
}

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
