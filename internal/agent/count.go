package agent

import (
	"context"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// countersMost is how long the kernel may take to answer before the counters of its last answer are returned.
const countersMost = 2 * time.Second

// dropCount makes one figure, which never goes back, of the kernel's counters, which begin anew with each table.
type dropCount struct {
	reading sync.Mutex // held while the kernel is read: an older figure after a newer one would look like a table made anew

	mu    sync.Mutex       // holds what follows; never while the kernel, which may hang, is read
	began ruleset.Counters // the kernel's when this process began: rules that a killed one left have counted on
	raw   ruleset.Counters // the kernel's, when they were read last
	since ruleset.Counters // dropped since this process began
	base  ruleset.Counters // dropped before that, since the database was made

	begun   bool // began is known
	loaded  bool // base is known, which is after began
	inexact bool // something was dropped that is in no figure
	kept    store.Counters
}

// beginCounting reads where the kernel's counters are now: rules of a run before this one have counted on. If the kernel
// does not say, counting begins when it does.
func (a *Agent) beginCounting() { _, _ = a.dropped() }

// loadCounters reads what runs before this one counted.
func (a *Agent) loadCounters(ctx context.Context) {
	d := &a.drops
	d.mu.Lock()
	loaded, begun := d.loaded, d.begun
	d.mu.Unlock()
	if loaded || !begun {
		return
	}
	c, err := a.store.Counters(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil { // else it is told where hits are recorded
		d.load(c)
	}
}

// load goes on from what was kept. When the run before was killed, its last second was not kept: that is still in the
// kernel's counters if its rules are.
func (d *dropCount) load(c store.Counters) {
	raw := ruleset.Counters{Packets4: c.Raw[0], Bytes4: c.Raw[1], Packets6: c.Raw[2], Bytes6: c.Raw[3]}
	before := ruleset.Counters{Packets4: c.Packets4, Bytes4: c.Bytes4, Packets6: c.Packets6, Bytes6: c.Bytes6}
	adopted := d.began.Packets() > 0 && d.began.Packets() >= raw.Packets()
	d.base, d.loaded = plus(before, grown(d.began, raw)), true
	d.inexact = d.inexact || c.Inexact || c.Running && !adopted
}

// dropped reads the kernel's counters, and returns what was dropped since this process began.
func (a *Agent) dropped() (ruleset.Counters, error) {
	d := &a.drops
	d.reading.Lock()
	defer d.reading.Unlock()
	n, err := a.fw.Counters()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.inexact = d.inexact || !d.begun // by then it may have counted what was dropped since the start
		return d.since, err
	}
	if !d.begun {
		d.began, d.raw, d.begun = n, n, true
	}
	if n.Packets4 < d.raw.Packets4 || n.Packets6 < d.raw.Packets6 {
		d.inexact = true // somebody else took them away, and what they had counted since they were read
	}
	d.since, d.raw = plus(d.since, grown(n, d.raw)), n
	return d.since, nil
}

// droppedSoon is dropped for who must not wait for a kernel that hangs: then it returns what was dropped when the kernel
// answered last, as it does when the kernel answers with an error.
func (a *Agent) droppedSoon() ruleset.Counters {
	if since, ok := a.counting.Within(countersMost); ok {
		return since
	}
	a.drops.mu.Lock()
	defer a.drops.mu.Unlock()
	return a.drops.since
}

// takeAway removes the rules. Nothing is dropped any more when the counters are read for the last time. What cannot be
// disarmed is removed all the same, and what is dropped meanwhile is not counted.
func (a *Agent) takeAway() error {
	err := a.fw.Disarm()
	if _, counted := a.dropped(); err != nil || counted != nil {
		a.drops.miss()
	}
	if err := a.fw.Remove(); err != nil {
		return err
	}
	a.drops.beginAnew()
	return nil
}

// beginAnew says that the kernel's counters begin anew, after they were read.
func (d *dropCount) beginAnew() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.raw = ruleset.Counters{}
}

// miss remembers that something was dropped that is in no figure.
func (d *dropCount) miss() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inexact = true
}

// total is what was dropped since the database was made; ok is false while that is not known: a figure without what was
// counted before would go back.
func (a *Agent) total() (sum ruleset.Counters, exact, ok bool) {
	d := &a.drops
	d.mu.Lock()
	defer d.mu.Unlock()
	return plus(d.base, d.since), !d.inexact, d.loaded
}

// countersToKeep reads the kernel's counters for the database; nil when there is nothing new, or it is not known yet what is
// there. running says that more may come.
func (a *Agent) countersToKeep(running bool) *store.Counters {
	_, _ = a.dropped() // when the kernel does not answer, as it was last
	d := &a.drops
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := plus(d.base, d.since)
	c := store.Counters{
		Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6,
		Raw:     [4]uint64{d.raw.Packets4, d.raw.Bytes4, d.raw.Packets6, d.raw.Bytes6},
		Running: running, Inexact: d.inexact,
	}
	if !d.loaded || c == d.kept {
		return nil
	}
	return &c
}

func (a *Agent) countersKept(c *store.Counters) {
	if c == nil {
		return
	}
	a.drops.mu.Lock()
	defer a.drops.mu.Unlock()
	a.drops.kept = *c
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
