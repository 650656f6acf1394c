package iptables

import (
	"context"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// counter is packets and bytes.
type counter struct{ packets, bytes uint64 }

func (c counter) plus(d counter) counter { return counter{c.packets + d.packets, c.bytes + d.bytes} }

// tally is what the rules of one family have dropped. It has a lock of its own, so that who asks for it does not wait for
// an Apply, which holds the other one for as long as it takes to load a list.
type tally struct {
	// mu is held while the kernel is read, and not while it is changed. Two readings never overlap: the older of them would
	// look like rules that count anew.
	mu        sync.Mutex
	total     counter // as it was told last; it never goes back
	before    counter // what was dropped before the kernel's counter began
	reading   counter // the kernel's counter, as it was read last
	replacing bool    // the rules are being replaced: what the kernel says now is of the old ones, of the new ones, or neither
}

// add takes a reading; nil is one of rules that are not there. Those have dropped at least what was read last, as have rules
// that show less than before: somebody zeroed or replaced them.
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

// reset begins anew, when the rules were removed.
func (c *tally) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total, c.before, c.reading = counter{}, counter{}, counter{}
}

// read reads the table, and counts what its rules dropped.
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

// dropped is what the rules of a family have dropped. While they are being replaced it is what was read last.
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
	return c.add(st.dropped), nil
}

// Counters reads what the rules dropped since they were first put in place. Rules that are put right count on. It does not
// wait for an Apply.
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
