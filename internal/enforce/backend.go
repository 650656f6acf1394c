package enforce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// backend is the firewall and its counters.
type backend struct {
	fw        firewall.Backend // nil before Open, and in a dry run
	gate      *gate            // fw, once it was opened
	gaps      []string         // of the firewall, as they were logged
	leftovers leftovers
	ledger    *counters.Ledger
	lostC     chan error // capacity 1: a change of the rules by another program
}

// errNotOpen is returned for the counters before Open.
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

// Open opens the firewall, which needs a low file descriptor, and adopts the rules of a killed
// agent.
func (e *Enforcer) Open() error {
	fw, err := e.o.Open()
	if err != nil {
		return err
	}
	e.backend.gate = &gate{Backend: fw}
	e.backend.fw = e.backend.gate
	info := fw.Info()
	e.o.Log.Info(fmt.Sprintf("Firewall backend: %s (%s)", info.Name, info.Reason))
	e.o.Log.Debug("Firewall features", zap.Strings("features", info.Features))
	e.logGaps()
	e.adoptLeftovers()
	_, _ = e.backend.ledger.Read() // the rules of a killed agent continued to count
	return nil
}

// Opened reports whether Open succeeded. It never does in a dry run.
func (e *Enforcer) Opened() bool { return e.backend.fw != nil }

// Close closes the firewall, if it was opened. Its rules stay as they are.
func (e *Enforcer) Close() error {
	if e.backend.fw == nil {
		return nil
	}
	return e.backend.fw.Close()
}

// Remove removes the rules from the kernel. Nothing activates any afterwards.
func (e *Enforcer) Remove() error {
	if e.backend.fw == nil {
		return nil
	}
	e.backend.gate.shut()
	if err := e.removeRules(); err != nil {
		return fmt.Errorf("remove the firewall rules: %w (`sikkerguard cleanup` tries again)", err)
	}
	return nil
}

// removeRules removes the rules. They are disarmed first, so that the last reading of their
// counters is final. If disarming fails, they are removed nevertheless; the packets that they drop
// meanwhile are not counted.
func (e *Enforcer) removeRules() error {
	err := e.backend.fw.Disarm()
	if _, counted := e.backend.ledger.Read(); err != nil || counted != nil {
		e.backend.ledger.MarkInexact()
	}
	if err := e.backend.fw.Remove(); err != nil {
		return err
	}
	e.backend.ledger.Reset()
	return nil
}

// Used reports whether there were rules, of this run or of an earlier one.
func (e *Enforcer) Used() bool { return e.backend.gate != nil && e.backend.gate.used.Load() }

// Present asks the kernel whether the rules are there. It does not wait for programs that change
// them. Before Open, and in a dry run, it returns nil.
func (e *Enforcer) Present() error {
	if e.backend.fw == nil {
		return nil
	}
	return e.backend.fw.Present()
}

// WatchRules has changes of the rules by other programs repaired, until ctx ends.
func (e *Enforcer) WatchRules(ctx context.Context) error { return e.backend.fw.Watch(ctx, e.rulesLost) }

// Ledger returns the sums of dropped packets.
func (e *Enforcer) Ledger() *counters.Ledger { return e.backend.ledger }

// Hits returns the packets that the kernel counted by source, protocol and port since the previous
// call. After Remove it returns the last ones.
func (e *Enforcer) Hits() (ruleset.Hits, error) {
	if e.backend.fw == nil {
		return ruleset.Hits{}, errNotOpen
	}
	return e.backend.fw.Hits()
}

// Fill adds the firewall, the sums of dropped packets and the quota for pulls to s.
func (e *Enforcer) Fill(s *status.Status) {
	s.Quota.Pulls = status.QuotaOf(e.remotes[0].quota(), time.Now())
	if e.backend.fw == nil {
		return
	}
	i := e.backend.fw.Info()
	s.Backend, s.Features = i.Name, append(s.Features, i.Features...)
	s.Gaps = append(append(s.Gaps, i.Gaps...), i.Detours...)
	if s.Verified != nil && s.Verified.Counted {
		s.Features = append(s.Features, "element counts")
	}
}

// logGaps logs each missing feature of the firewall once: as a warning if the host is less
// protected without it. Some are found only when a list is active.
func (e *Enforcer) logGaps() {
	i := e.backend.fw.Info()
	logNew := func(gaps []string, log func(string, ...zap.Field)) {
		for _, gap := range gaps {
			if !slices.Contains(e.backend.gaps, gap) {
				log("Firewall: " + gap)
			}
		}
	}
	logNew(i.Gaps, e.o.Log.Warn)
	logNew(i.Detours, e.o.Log.Info)
	e.backend.gaps = slices.Concat(i.Gaps, i.Detours)
}

// gate is a firewall that can be closed to new rules. When the agent stops, the rules are removed
// at once. A Run that ends late, for example in the middle of a rollback, must not apply any again.
type gate struct {
	firewall.Backend

	used   atomic.Bool // there were rules, of this run or of an earlier one
	mu     sync.RWMutex
	closed bool
}

// Apply applies rs. After shut it returns context.Canceled.
func (g *gate) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	g.mu.RLock() // held during Apply: shut waits for it
	defer g.mu.RUnlock()
	if g.closed {
		return ruleset.Evidence{}, context.Canceled
	}
	g.use()
	return g.Backend.Apply(ctx, rs)
}

// use records that there are rules to remove. It does nothing on a nil gate.
func (g *gate) use() {
	if g != nil {
		g.used.Store(true)
	}
}

// shut closes the gate after an Apply that is under way. It does nothing on a nil gate.
func (g *gate) shut() {
	if g == nil { // nothing was opened
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
