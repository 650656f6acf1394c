package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables/expr"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// hitCounts turns the values of the kernel's counters by key into packets since the previous
// reading. It never resets a counter in the kernel: a reset dump loses counts.
//
// Each value is compared with the last value of its key. A smaller value means that another program
// deleted the key and packets added it again: then all of it is new. If such a key has passed its
// old value again, the difference is too small and packets stay without a key. A packet is never
// counted twice.
type hitCounts struct {
	mu      sync.Mutex
	socket  *socket // lasting: closing one can wait for the kernel; nil before the first reading
	closed  bool    // no other socket is opened
	buf     []byte
	keys    map[string]map[ruleset.HitKey]hitKey // by name of the set
	began   time.Time                            // of the first reading
	reading uint32                               // number of the reading in progress
	pending []ruleset.HitCount                   // packets that no call of Hits has returned
	sizes   map[string]uint32                    // sizes of sets that an earlier version made
	full    bool                                 // a set was full since the previous call of Hits
	pruned  time.Time                            // last time that idle keys were deleted
	relog   time.Time                            // when keys are deleted to have their next packets logged
	foreign bool                                 // until relog there are keys of a dead agent
	fresh   int                                  // keys that are new since the noisy sets were emptied
	forgot  time.Time                            // last time that the noisy sets were emptied
}

// hitKey is the last reading of a key.
type hitKey struct {
	packets uint64
	moved   int64  // seconds from the first reading to the last one with new packets
	reading uint32 // last reading that had the key
}

// Hits returns the dropped packets by source, protocol and port since the previous call. Counters
// read after it are never behind: their other packets have no key, or came meanwhile. It is safe to
// call during Apply. In the case of an error the next call returns the packets.
func (t *Table) Hits() (ruleset.Hits, error) {
	if !t.counting {
		return ruleset.Hits{}, nil
	}
	h, err := t.hits.take(time.Now())
	if err != nil {
		return ruleset.Hits{}, fmt.Errorf("read counts by source: %w", err)
	}
	t.makeSpare()
	t.prune(time.Now())
	return h, nil
}

// take reads all sets and returns the packets since the last take.
func (c *hitCounts) take(now time.Time) (ruleset.Hits, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(now); err != nil {
		return ruleset.Hits{}, err
	}
	h := ruleset.Hits{Supported: true, Counts: c.pending, Full: c.full}
	c.pending, c.full = nil, false
	return h, nil
}

// read adds the packets since the last reading to pending. The caller holds mu.
func (c *hitCounts) read(now time.Time) error {
	for _, s := range allHitSets() {
		if !s.counts() {
			continue
		}
		if err := c.readSet(s, now); err != nil && !errors.Is(err, errNoSet) {
			return err
		}
	}
	return nil
}

// readSet reads one set. The error is errNoSet if the kernel does not have it. A set of another type,
// which another program or another version of the agent made, has no keys: the next Apply replaces it.
func (c *hitCounts) readSet(s hitSet, now time.Time) error {
	if err := c.connect(); err != nil {
		return err
	}
	c.reading++
	keys, n := c.keys[s.name], 0
	if keys == nil {
		keys = map[ruleset.HitKey]hitKey{}
		c.keys[s.name] = keys
	}
	complete, err := c.socket.dumpElements(s.name, c.buf, func(raw []byte, packets uint64) {
		if k, ok := s.decode(raw); ok {
			n++
			c.count(keys, k, packets, now)
		}
	})
	if errors.Is(err, errNoSet) {
		clear(keys)
		return err
	}
	if err != nil {
		c.disconnect() // the rest of the answer is still queued
		return err
	}
	c.full = c.full || n >= int(c.size(s))
	if complete && len(keys) > n { // another program deleted some
		for k, last := range keys {
			if last.reading != c.reading {
				delete(keys, k)
			}
		}
	}
	return nil
}

// count adds the difference between the value of a key and its last value to pending.
func (c *hitCounts) count(keys map[ruleset.HitKey]hitKey, k ruleset.HitKey, packets uint64, now time.Time) {
	last, known := keys[k]
	if !known {
		c.fresh++
	}
	more := packets - last.packets
	if packets < last.packets {
		more = packets
	}
	if more > 0 {
		c.pending = append(c.pending, ruleset.HitCount{HitKey: k, Packets: more})
	}
	if more > 0 || !known {
		last.moved = c.seconds(now)
	}
	last.packets, last.reading = packets, c.reading
	keys[k] = last
}

// seconds returns the time from the first reading to now. The wall clock, which can be set back, has
// no part in it.
func (c *hitCounts) seconds(now time.Time) int64 { return int64(now.Sub(c.began) / time.Second) }

func (c *hitCounts) connect() error {
	switch {
	case c.closed:
		return os.ErrClosed
	case c.socket != nil:
		return nil
	}
	s, err := dial()
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	c.socket = s
	if c.buf == nil {
		c.buf, c.keys, c.began = make([]byte, dumpBuffer), map[string]map[ruleset.HitKey]hitKey{}, time.Now()
		c.relog = c.began.Add(relogInterval)
	}
	return nil
}

func (c *hitCounts) disconnect() {
	if c.socket != nil {
		_ = c.socket.close() // nothing was written
		c.socket = nil
	}
}

func (c *hitCounts) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disconnect()
	c.closed = true
}

// adopt takes the values of a dead agent's sets as the first ones. The packets that it had not read
// stay without a key. The kernel has logged the first packets of the keys to that agent, so the kind
// of later ones is not known. After relogAfter the keys are deleted, and their next packets logged.
func (c *hitCounts) adopt(have map[string]kernelSet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(have)
	err := c.read(time.Now())
	c.pending, c.full = nil, false
	c.relog, c.foreign = time.Now().Add(relogAfter), true
	return err
}

// around runs commit, which sends b. If b creates hit sets, around reads the existing ones before,
// and then knows which of them are new.
func (c *hitCounts) around(b *batch, commit func() error) error {
	if !b.hitSets || b.renews { // the caller of a batch that renews holds mu
		return commit()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.read(time.Now()) // it drops the keys of sets that are gone; the next reading returns the error
	c.note(b.have)
	return commit()
}

// note remembers the sizes of the kernel's sets, which can be of another version of the agent.
func (c *hitCounts) note(have map[string]kernelSet) {
	c.sizes = map[string]uint32{}
	for name, k := range have {
		if isHitSet(name) {
			c.sizes[name] = k.size
		}
	}
}

// size returns the size of the kernel's set.
func (c *hitCounts) size(s hitSet) uint32 {
	if n, ok := c.sizes[s.name]; ok {
		return n
	}
	return s.size
}

// renew runs replace, which replaces the table with its counters. The keys are read before, so that
// the counters that replace reads are never behind. Packets between the two have no key.
func (c *hitCounts) renew(replace func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.read(time.Now()) // packets that cannot be read have no key
	err := replace()
	if err == nil {
		clear(c.keys)
		c.sizes = nil
	}
	return err
}

// hitSetsIn returns the hit sets that rules use.
func hitSetsIn(rr []rule) []hitSet {
	return slices.DeleteFunc(allHitSets(), func(s hitSet) bool {
		return !slices.ContainsFunc(rr, func(r rule) bool {
			return slices.ContainsFunc(r.exprs, func(e expr.Any) bool {
				switch e := e.(type) {
				case *expr.Lookup:
					return e.SetName == s.name
				case *expr.Dynset:
					return e.SetName == s.name
				}
				return false
			})
		})
	})
}
