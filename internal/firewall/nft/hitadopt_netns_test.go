package nft

import (
	"strings"
	"testing"
)

// TestHitsRepaired has another program change the sets under a flood. The sum of the keys is never
// more than the counters, and what cannot be read is in no key. Afterwards each packet has its key.
func TestHitsRepaired(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.table.flags = 0 // as on a kernel without owner: another program may change the table
	from := sources(50)
	h.apply(addresses(50), list())
	c := h.tally()
	for _, harm := range []string{
		"flush set inet sikkerguard hits4",
		"flush chain inet sikkerguard blocked4; flush chain inet sikkerguard new4; delete set inet sikkerguard hits4",
		"flush chain inet sikkerguard blocked4; flush chain inet sikkerguard new4; delete set inet sikkerguard hits4; " +
			"add set inet sikkerguard hits4 { type ipv4_addr; size 10; }",
		"delete table inet sikkerguard",
	} {
		f := h.Flood(from)
		f.Await(500)
		c.read()
		h.Run("nft", harm)
		h.apply(addresses(50), list())
		if strings.HasPrefix(harm, "delete table") { // the counters are gone, too
			clear(c.keys)
			h.Do(func() { _, _ = h.table.Hits() })
		}
		f.Await(500)
		f.Stop()
		h.Settle()
		c.read()
		before, lost := c.sum(), c.unattributed()
		for range 10 {
			for _, a := range from {
				h.Send(a, "after")
			}
		}
		h.Settle()
		c.read()
		if c.sum()-before != 500 || c.unattributed() != lost {
			t.Errorf("after %q: %d of 500 packets have a key, %d more do not", harm, c.sum()-before, c.unattributed()-lost)
		}
	}
}

// TestHitsReplaced replaces the table under a flood, as at a change of its flags: what was dropped
// before has its keys, and the sum is never more than the counters.
func TestHitsReplaced(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	needOwner(t)
	from := sources(50)
	h.apply(addresses(50), list())
	for _, a := range from {
		h.Send(a, "before")
	}
	h.Settle()
	h.table.flags ^= 1 << 1 // the owner flag: the table must be replaced
	c := h.tally()
	f := h.Flood(from)
	f.Await(200)
	h.apply(addresses(50), list())
	f.Await(200)
	sent := f.Stop()
	h.Settle()
	c.read()
	c.read()
	if c.sum() < uint64(50+200) || c.sum() > uint64(50+sent) {
		t.Errorf("%d packets have a key, %d were sent", c.sum(), sent+50)
	}
	t.Logf("%d of %d packets have no key", c.unattributed(), sent+50)
}

// TestHitsAdopted kills the agent. The next one does not count again what the first has read.
func TestHitsAdopted(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Keep: true})
	needCounting(h)
	from := sources(20)
	h.apply(addresses(20), list())
	send := func() {
		for _, a := range from {
			h.Send(a, "knock")
		}
		h.Settle()
	}
	send()
	c := h.tally()
	c.read()
	h.orphan()
	send() // no agent reads these
	h.open(Options{Keep: true})
	send()
	h.apply(addresses(20), list())
	send()
	next := h.tally()
	next.read()
	if c.sum() != 20 || next.sum() != 40 {
		t.Errorf("the first agent read %d packets, the second %d; want 20 and 40", c.sum(), next.sum())
	}
	if n, _ := h.counters(); n.Packets() != 80 {
		t.Errorf("the counters have %d packets, want 80", n.Packets())
	}
}

// TestHitsOfAnotherType adopts a table whose sets of keys have another type, as of another version of
// the agent: it has no keys that this one knows, and the first list replaces it.
func TestHitsOfAnotherType(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Keep: true})
	needCounting(h)
	h.apply(addresses(1), list())
	h.orphan()
	h.Run("nft", "flush chain inet sikkerguard blocked4; flush chain inet sikkerguard new4; "+
		"delete set inet sikkerguard hits4; add set inet sikkerguard hits4 { type ipv4_addr; size 10; elements = { 11.0.0.1 } }")
	h.open(Options{Keep: true})
	c := h.tally()
	c.read()
	if len(c.keys) > 0 {
		t.Errorf("the other set has keys: %v", c.lines())
	}
	h.apply(addresses(1), list())
	h.Send(sources(1)[0], "knock")
	h.Settle()
	c.read()
	if c.sum() != 1 || c.unattributed() != 0 {
		t.Errorf("%d packets have a key, and %d do not; want 1 and 0", c.sum(), c.unattributed())
	}
}
