package agent

import (
	"context"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// dropCount makes one figure, which never goes back, of the kernel's counters, which begin anew with each table.
type dropCount struct {
	mu     sync.Mutex
	began  ruleset.Counters // the kernel's when this process began: rules that a killed one left have counted on
	raw    ruleset.Counters // the kernel's, when they were read last
	since  ruleset.Counters // dropped since this process began
	base   ruleset.Counters // dropped before that, since the database was made
	loaded bool             // base is known
}

// beginCounting reads where the kernel's counters are now, and goes on where the last run was.
func (a *Agent) beginCounting() {
	if n, err := a.fw.Counters(); err == nil {
		a.drops.began, a.drops.raw = n, n
	}
	a.drops.mu.Lock()
	defer a.drops.mu.Unlock()
	a.loadBase()
}

// loadBase reads what runs before this one counted. While the database cannot be read the total is too small by that, and
// nothing is written over it.
func (a *Agent) loadBase() {
	d := &a.drops
	if a.store == nil || d.loaded {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	c, err := a.store.Counters(ctx)
	if err != nil {
		return // told where hits are recorded
	}
	before := ruleset.Counters{Packets4: c.Packets4, Bytes4: c.Bytes4, Packets6: c.Packets6, Bytes6: c.Bytes6}
	raw := ruleset.Counters{Packets4: c.Raw[0], Bytes4: c.Raw[1], Packets6: c.Raw[2], Bytes6: c.Raw[3]}
	d.base, d.loaded = plus(before, grown(d.began, raw)), true
}

// dropped reads the kernel's counters, and returns what was dropped since the database was made and since this process
// began. What it returned is kept first, so that no later answer, after a kill either, is less.
func (a *Agent) dropped() (sum, since ruleset.Counters, err error) {
	d := &a.drops
	d.mu.Lock() // before reading: an older figure after a newer one would look like a table made anew
	defer d.mu.Unlock()
	n, err := a.fw.Counters()
	if err != nil {
		return sum, since, err
	}
	changed := n != d.raw || !d.loaded
	d.since, d.raw = plus(d.since, grown(n, d.raw)), n
	a.loadBase()
	sum = plus(d.base, d.since)
	if d.loaded && changed {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		// A disk that is full is told where hits are recorded.
		_ = a.store.SetCounters(ctx, store.Counters{
			Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6,
			Raw: [4]uint64{n.Packets4, n.Bytes4, n.Packets6, n.Bytes6},
		})
	}
	return sum, d.since, nil
}

// grown is by how much counters have grown. Those that show less than before began anew with a new table.
func grown(now, before ruleset.Counters) ruleset.Counters {
	by := func(now, before uint64) uint64 {
		if now < before {
			return now
		}
		return now - before
	}
	return ruleset.Counters{
		Packets4: by(now.Packets4, before.Packets4), Bytes4: by(now.Bytes4, before.Bytes4),
		Packets6: by(now.Packets6, before.Packets6), Bytes6: by(now.Bytes6, before.Bytes6),
	}
}

func plus(a, b ruleset.Counters) ruleset.Counters {
	return ruleset.Counters{
		Packets4: a.Packets4 + b.Packets4, Bytes4: a.Bytes4 + b.Bytes4,
		Packets6: a.Packets6 + b.Packets6, Bytes6: a.Bytes6 + b.Bytes6,
	}
}
