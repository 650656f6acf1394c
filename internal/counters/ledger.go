package counters

import (
	"context"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/coalesce"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// kernelMost is how long the kernel may take to answer before ReadSoon returns the figures of its
// last answer.
const kernelMost = 2 * time.Second

// Options are the sources of a Ledger.
type Options struct {
	Kernel func() (ruleset.Counters, error)              // reads the counters of the rules; may hang
	Stored func(context.Context) (store.Counters, error) // reads the sums of earlier runs
}

// Ledger sums the kernel's counters over tables, kills and restarts. Its methods may be called by
// any goroutine.
type Ledger struct {
	o    Options
	soon *coalesce.Reader[ruleset.Counters]

	reading sync.Mutex // held while the kernel is read: an older figure after a newer one would look like a new table

	mu    sync.Mutex       // guards the fields below; not held while the kernel, which may hang, is read
	began ruleset.Counters // the kernel's when this process began: the rules of a killed agent have counted on
	raw   ruleset.Counters // the kernel's at the last reading
	since ruleset.Counters // dropped since this process began
	base  ruleset.Counters // dropped before that, since the database was created

	begun   bool // began is known
	loaded  bool // base is known; only after began is
	inexact bool // packets were dropped that no figure contains
	saved   store.Counters
}

// New returns a Ledger. Nothing is read yet.
func New(o Options) *Ledger {
	l := &Ledger{o: o}
	l.soon = coalesce.New(0, func() ruleset.Counters {
		n, _ := l.Read()
		return n
	})
	return l
}

// Read reads the kernel's counters and returns the packets and bytes that were dropped since this
// process began. If the kernel answers with an error, they are those of the last reading. The first
// call marks the beginning.
func (l *Ledger) Read() (ruleset.Counters, error) {
	l.reading.Lock()
	defer l.reading.Unlock()
	n, err := l.o.Kernel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.inexact = l.inexact || !l.begun // once it answers it may have counted packets dropped since the start
		return l.since, err
	}
	if !l.begun {
		l.began, l.raw, l.begun = n, n, true
	}
	if n.Packets4 < l.raw.Packets4 || n.Packets6 < l.raw.Packets6 {
		l.inexact = true // another program removed the counters, with the packets counted since the last reading
	}
	l.since, l.raw = plus(l.since, grown(n, l.raw)), n
	return l.since, nil
}

// ReadSoon is like Read, but if the kernel does not answer within two seconds, or with an error, it
// returns the figures of the last reading.
func (l *Ledger) ReadSoon() ruleset.Counters {
	if since, ok := l.soon.Within(kernelMost); ok {
		return since
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// Load reads the sums of earlier runs, unless that is done. Before the first successful Read it
// does nothing.
func (l *Ledger) Load(ctx context.Context) error {
	l.mu.Lock()
	due := l.begun && !l.loaded
	l.mu.Unlock()
	if !due {
		return nil
	}
	c, err := l.o.Stored(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load(c)
	return nil
}

// load continues from c. If the run before was killed, the packets since its last recording were not
// saved. The kernel's counters still contain them if its rules are still there.
func (l *Ledger) load(c store.Counters) {
	raw := ruleset.Counters{Packets4: c.Raw[0], Bytes4: c.Raw[1], Packets6: c.Raw[2], Bytes6: c.Raw[3]}
	before := ruleset.Counters{Packets4: c.Packets4, Bytes4: c.Bytes4, Packets6: c.Packets6, Bytes6: c.Bytes6}
	adopted := l.began.Packets() > 0 && l.began.Packets() >= raw.Packets()
	l.base, l.loaded = plus(before, grown(l.began, raw)), true
	l.inexact = l.inexact || c.Inexact || c.Running && !adopted
}

// Reset records that the kernel's counters begin at 0 again, after they were read for the last
// time.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raw = ruleset.Counters{}
}

// MarkInexact records that packets were dropped that no figure contains.
func (l *Ledger) MarkInexact() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inexact = true
}

// Total returns the packets and bytes dropped since the database was created, and whether they are
// exact. ok is false while the sums of earlier runs are unknown: a figure without them would be
// less than one shown before.
func (l *Ledger) Total() (sum ruleset.Counters, exact, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return plus(l.base, l.since), !l.inexact, l.loaded
}

// Changed reports whether the last reading left something to do with the database: sums to save, or
// those of earlier runs to load. It asks neither the kernel nor the database.
func (l *Ledger) Changed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded {
		return l.begun
	}
	return l.sums(true) != l.saved
}

// Unsaved reads the kernel's counters as ReadSoon does and returns the sums for the database, or nil
// if those are saved or the sums of earlier runs are unknown. running records that this process may
// drop more packets. If the kernel does not answer, the sums are those of the last reading.
func (l *Ledger) Unsaved(running bool) *store.Counters {
	_ = l.ReadSoon()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.sums(running)
	if !l.loaded || c == l.saved {
		return nil
	}
	return &c
}

// sums returns the sums for the database. The caller holds mu.
func (l *Ledger) sums(running bool) store.Counters {
	sum := plus(l.base, l.since)
	return store.Counters{
		Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6,
		Raw:     [4]uint64{l.raw.Packets4, l.raw.Bytes4, l.raw.Packets6, l.raw.Bytes6},
		Running: running, Inexact: l.inexact,
	}
}

// Saved records that the database has c, a result of Unsaved. A nil c is ignored.
func (l *Ledger) Saved(c *store.Counters) {
	if c == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saved = *c
}

// grown returns the growth of counters from before to now. Counters that are less than before began
// at 0 with a new table.
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
