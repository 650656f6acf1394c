package iptables

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// renewInterval is the time after which a set with more than renewKeys keys is swapped with an
	// empty one: most keys are then of sources that have stopped, and each reading returns all.
	renewInterval = 10 * time.Minute
	renewKeys     = 1000
	// renewSmall is the same for any other set that has keys. The event of a key shows its kind. The
	// observer forgets it half an hour after the last packet; the kernel must then log the next one.
	renewSmall = 20 * time.Minute
	// relogAfter is the time from the start to the swap of the sets of a killed agent, which has the
	// events of their keys. Something listens for those of the next packets by then.
	relogAfter = 10 * time.Second
)

// hitCounts turns the values of the kernel's counters by key into packets since the previous
// reading. It never resets a counter in the kernel.
//
// Keys of sources that have stopped would fill a set. So the set is swapped with an empty one
// between two packets. The next reading takes the last values of the old set, when no packet can
// change them any more.
type hitCounts struct {
	mu      sync.Mutex
	socket  setSocket
	sets    map[string]*hitValues // by name of the set in the kernel
	pending []ruleset.HitCount    // packets that no call of Hits has returned
	full    bool                  // a set was full since the previous call of Hits
}

// hitValues is the last reading of a set.
type hitValues struct {
	packets map[ruleset.HitKey]uint64
	spare   map[ruleset.HitKey]uint64 // of the reading before, to be used again; nil if there is none
	renewed time.Time                 // when the set was last empty, or was read first
}

// Hits returns the dropped packets by source, protocol and port since the previous call. Counters
// read after it are never behind: the packets that they have in addition have no key, or came
// meanwhile. Hits does not wait for Apply. In the case of an error the next call returns the packets.
func (f *Firewall) Hits() (ruleset.Hits, error) {
	if !f.counting {
		return ruleset.Hits{}, nil
	}
	f.hits.mu.Lock()
	defer f.hits.mu.Unlock()
	now := time.Now()
	if err := f.readHits(now); err != nil {
		f.hits.join()
		return ruleset.Hits{}, fmt.Errorf("read counts by source: %w", err)
	}
	f.renew(context.Background(), now)
	h := ruleset.Hits{Supported: true, Counts: f.hits.pending, Full: f.hits.full}
	f.hits.pending, f.hits.full = nil, false
	return h, nil
}

// readHits reads all sets. The caller holds hits.mu.
func (f *Firewall) readHits(now time.Time) error {
	before := len(f.hits.pending)
	err := f.hits.readAll(f.hitSets(), now)
	for _, c := range f.hits.pending[before:] {
		fam := ipv4()
		if c.Source.Is6() {
			fam = ipv6()
		}
		f.tallies[fam.proto].keyed.Add(c.Packets)
	}
	return err
}

// hitSets returns the sets of the enforced families.
func (f *Firewall) hitSets() []hitSet {
	var all []hitSet
	for _, t := range f.families {
		all = append(all, t.hitSets()...)
	}
	return all
}

// adoptHits takes the values of sets of a killed agent as the beginning: that agent counted them.
// Sets that do not exist begin with zero.
func (f *Firewall) adoptHits(ctx context.Context) error {
	f.hits.mu.Lock()
	defer f.hits.mu.Unlock()
	if f.hits.sets != nil || !f.counting {
		return nil
	}
	var old []string
	for _, s := range f.hitSets() {
		old = append(old, s.last().name)
	}
	if err := f.destroy(ctx, old...); err != nil {
		return err
	}
	f.hits.sets = map[string]*hitValues{}
	for _, s := range f.hitSets() {
		if err := f.hits.read(s, time.Now()); err != nil {
			f.hits.sets = nil
			return fmt.Errorf("read counts by source: %w", err)
		}
		if v := f.hits.sets[s.name]; v != nil && len(v.packets) > 0 {
			v.renewed = time.Now().Add(relogAfter - renewSmall)
		}
	}
	f.hits.pending, f.hits.full = nil, false
	for _, c := range f.tallies {
		c.mu.Lock()
		c.base = c.total.packets
		c.keyed.Store(0)
		c.mu.Unlock()
	}
	return nil
}

// readAll reads the sets, and those that they were swapped with. The caller holds mu.
func (c *hitCounts) readAll(sets []hitSet, now time.Time) error {
	if c.sets == nil { // no rules of ours count
		return nil
	}
	for _, s := range sets {
		if last := s.last(); c.sets[last.name] != nil {
			if err := c.read(last, now); err != nil {
				return err
			}
		}
		if err := c.read(s, now); err != nil {
			return err
		}
	}
	return nil
}

// read adds the packets since the last reading of the set to pending. The caller holds mu.
func (c *hitCounts) read(s hitSet, now time.Time) error {
	old := c.sets[s.name]
	if old == nil {
		old = &hitValues{renewed: now}
	}
	next := &hitValues{packets: old.spare, spare: old.packets, renewed: old.renewed}
	if next.packets == nil {
		next.packets = map[ruleset.HitKey]uint64{}
	}
	clear(next.packets)
	err := c.socket.dump(s.name, func(e element) {
		k := s.keyOf(e)
		next.packets[k] += e.packets
	})
	if errors.Is(err, unix.ENOENT) { // it is removed, or not made yet
		delete(c.sets, s.name)
		return nil
	}
	if err != nil {
		return err
	}
	for k, n := range next.packets {
		// A smaller value means that another program deleted the key and packets added it again.
		if last := old.packets[k]; n >= last {
			n -= last
		}
		if n > 0 {
			c.pending = append(c.pending, ruleset.HitCount{HitKey: k, Packets: n})
		}
	}
	if len(next.packets) == 0 {
		next.renewed = now
	}
	c.full = c.full || len(next.packets) >= hitSetSize
	c.sets[s.name] = next
	return nil
}

// join adds up the pending packets of equal keys. While one set cannot be read, each call of Hits
// adds to those of the others. A set keeps its keys meanwhile, so pending does not grow without
// end. The caller holds mu.
func (c *hitCounts) join() {
	sums := map[ruleset.HitKey]uint64{}
	for _, p := range c.pending {
		sums[p.HitKey] += p.Packets
	}
	c.pending = c.pending[:0]
	for k, n := range sums {
		c.pending = append(c.pending, ruleset.HitCount{HitKey: k, Packets: n})
	}
}

// due reports whether it is time to swap the set with an empty one.
func (v *hitValues) due(now time.Time) bool {
	n, age := len(v.packets), now.Sub(v.renewed)
	return n > hitSetSize/2 || n > renewKeys && age >= renewInterval || n > 0 && age >= renewSmall
}

// renew destroys the sets that were swapped and read since, and swaps those that are due with empty
// ones. It does nothing during an Apply: the next call does. The caller holds hits.mu.
func (f *Firewall) renew(ctx context.Context, now time.Time) {
	if !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	for _, s := range f.hitSets() {
		last := s.last()
		if f.hits.sets[last.name] != nil {
			if f.destroy(ctx, last.name) != nil {
				continue // another program lists it
			}
			delete(f.hits.sets, last.name)
		}
		v := f.hits.sets[s.name]
		if f.applied == nil || v == nil || !v.due(now) {
			continue
		}
		// If this fails, packets are counted in the set as it is, and by source if it is full.
		err := f.restore(ctx, askTime, script(last.create()))
		if err == nil {
			err = f.swap(ctx, s.name, last.name)
		}
		if err != nil {
			_ = f.destroy(ctx, last.name)
			continue
		}
		f.hits.sets[last.name], f.hits.sets[s.name] = v, &hitValues{renewed: now}
	}
}

// forgetHits takes the last values before the sets are removed.
func (f *Firewall) forgetHits() {
	f.hits.mu.Lock()
	defer f.hits.mu.Unlock()
	_ = f.readHits(time.Now()) // the packets since the last reading then have no key
	f.hits.sets = nil
}

// close closes the socket.
func (c *hitCounts) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.socket.close()
}
