package iptables

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// counter counts packets and bytes.
type counter struct{ packets, bytes uint64 }

func (c counter) plus(d counter) counter { return counter{c.packets + d.packets, c.bytes + d.bytes} }

// tally sums the drops of the rules of one family. It has its own lock, because Apply holds the
// lock of Firewall for as long as it loads a list.
type tally struct {
	// mu is held while the kernel is read, but not while it is changed. Two readings never overlap:
	// the older one would look like counters that began again.
	mu        sync.Mutex
	total     counter // last result; it never decreases
	before    counter // drops before the kernel's counter began
	reading   counter // last reading of the kernel's counter
	replacing bool    // rules are being replaced; kernel counters are ambiguous until that is done
	// base is the total when packets were first counted by key, and keyed is their number since.
	base  uint64
	keyed atomic.Uint64
}

// add adds a reading and returns the total. A nil reading means that the rules are missing. The
// rules have dropped at least the last reading, even if they now show less: another program zeroed
// or replaced them.
func (c *tally) add(dropped *counter) counter {
	if dropped != nil {
		if dropped.packets < c.reading.packets {
			c.before = c.total
		}
		c.reading = *dropped
		c.total = c.before.plus(c.reading)
	}
	return c.total
}

// raise raises the total to the packets that were counted by key. It is lower if another program
// removed the rules after their counter was read.
func (c *tally) raise() counter {
	if least := c.base + c.keyed.Load(); c.total.packets < least {
		c.before.packets += least - c.total.packets
		c.total.packets = least
	}
	return c.total
}

// reset sets the tally to zero after the removal of the rules.
func (c *tally) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total, c.before, c.reading = counter{}, counter{}, counter{}
	c.base = 0
	c.keyed.Store(0)
}

// readStateCounted reads the table and adds its counter to the tally.
func (f *Firewall) readStateCounted(ctx context.Context, t tables) (state, error) {
	c := f.tallies[t.proto]
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := f.readState(ctx, t)
	if err == nil {
		c.add(st.dropped)
	}
	return st, err
}

// dropped returns the drops of a family. During a replacement of the rules it returns the last
// total.
func (f *Firewall) dropped(ctx context.Context, t tables) (counter, error) {
	c := f.tallies[t.proto]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replacing {
		return c.total, nil
	}
	st, err := f.readState(ctx, t)
	if err != nil {
		return counter{}, err
	}
	c.add(st.dropped)
	return c.raise(), nil
}

// Counters returns the drops since the rules were first written. The count continues when rules are
// restored. Counters does not wait for Apply.
func (f *Firewall) Counters() (ruleset.Counters, error) {
	var n ruleset.Counters
	for _, t := range f.families {
		c, err := f.dropped(context.Background(), t)
		if err != nil {
			return n, err
		}
		if t.width == ipv4().width {
			n.Packets4, n.Bytes4 = c.packets, c.bytes
		} else {
			n.Packets6, n.Bytes6 = c.packets, c.bytes
		}
	}
	return n, nil
}
