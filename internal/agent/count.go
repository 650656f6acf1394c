package agent

import (
	"context"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// dropCount makes one figure, which never goes back, of the kernel's counters, which begin anew with each table.
type dropCount struct {
	mu    sync.Mutex
	sum   ruleset.Counters // since the database was made
	raw   ruleset.Counters // the kernel's, when they were read last
	since ruleset.Counters // since this process began
}

// loadCounters goes on where the last run was. Rules that it left in force have counted on.
func (a *Agent) loadCounters() {
	if a.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	c, err := a.store.Counters(ctx)
	if err != nil {
		return // they begin at nothing, as on a new host
	}
	a.drops.sum = ruleset.Counters{Packets4: c.Packets4, Bytes4: c.Bytes4, Packets6: c.Packets6, Bytes6: c.Bytes6}
	a.drops.raw = ruleset.Counters{Packets4: c.Raw[0], Bytes4: c.Raw[1], Packets6: c.Raw[2], Bytes6: c.Raw[3]}
	if sum, _, err := a.dropped(); err == nil {
		a.drops.sum, a.drops.since = sum, ruleset.Counters{} // what was dropped before is not this process's to have seen
	}
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
	delta := func(now, before uint64) uint64 {
		if now < before {
			return now // the table was made anew, and counts from nothing
		}
		return now - before
	}
	add := ruleset.Counters{
		Packets4: delta(n.Packets4, d.raw.Packets4), Bytes4: delta(n.Bytes4, d.raw.Bytes4),
		Packets6: delta(n.Packets6, d.raw.Packets6), Bytes6: delta(n.Bytes6, d.raw.Bytes6),
	}
	d.sum, d.since, d.raw = plus(d.sum, add), plus(d.since, add), n
	if a.store != nil && add != (ruleset.Counters{}) {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		// A disk that is full is told where hits are recorded.
		_ = a.store.SetCounters(ctx, store.Counters{
			Packets4: d.sum.Packets4, Bytes4: d.sum.Bytes4, Packets6: d.sum.Packets6, Bytes6: d.sum.Bytes6,
			Raw: [4]uint64{n.Packets4, n.Bytes4, n.Packets6, n.Bytes6},
		})
	}
	return d.sum, d.since, nil
}

func plus(a, b ruleset.Counters) ruleset.Counters {
	return ruleset.Counters{
		Packets4: a.Packets4 + b.Packets4, Bytes4: a.Bytes4 + b.Bytes4,
		Packets6: a.Packets6 + b.Packets6, Bytes6: a.Bytes6 + b.Bytes6,
	}
}
