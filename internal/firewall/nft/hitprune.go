package nft

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// pruneInterval is the time between two deletions of idle keys, and the time after which a key
	// is idle.
	pruneInterval = 10 * time.Minute
	// crowdedInterval is pruneInterval for a set that is more than half full.
	crowdedInterval = 10 * time.Second
	// relogAfter is the time from the start to the deletion of the keys of a dead agent. Something
	// listens for the events of their next packets by then.
	relogAfter = 10 * time.Second
	// relogInterval is the time between two deletions of the keys whose kind only their first packet
	// shows: its event may have been lost, or it was of another kind than those after it. If there are
	// more than relogMost in a set, they stay, because the log rate might refuse them.
	relogInterval, relogMost = 20 * time.Minute, 1 << 12
	// pruneChunk is the number of keys in one transaction. The kernel sends each back, and the
	// answers must fit the receive buffer, which in a user namespace holds some 1,400.
	pruneChunk = 1 << 10
)

// prune deletes the keys of sources that have stopped, so that the sets do not fill with them. The
// kernel sends each deleted key back with the last value of its counter, so that no packet is lost.
// It does nothing during an Apply: the next call of Hits prunes.
func (t *Table) prune(now time.Time) {
	if !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if !t.active.enforced {
		return
	}
	t.hits.mu.Lock()
	defer t.hits.mu.Unlock()
	pruned := false
	for _, s := range allHitSets() {
		idle, before := t.hits.idle(s, now), len(t.hits.keys[s.name])
		for len(idle) > 0 {
			n := min(len(idle), pruneChunk)
			if err := t.deleteKeys(s, idle[:n]); err != nil {
				return // another program deleted one of them; the next reading drops it
			}
			idle, pruned = idle[n:], true
		}
		t.hits.shrink(s, before)
	}
	if t.hits.relogs(now) {
		t.hits.relog, t.hits.foreign = now.Add(relogInterval), false
	}
	if pruned {
		t.hits.pruned = now
	}
	if pruned || t.hits.crowdsNoisy(now) {
		t.forgetNoisy()
		t.hits.fresh, t.hits.forgot = 0, now
	}
}

// crowdsNoisy reports whether a noisy set may be more than half full: it has each source that had a
// new key since it was emptied.
func (c *hitCounts) crowdsNoisy(now time.Time) bool {
	return c.fresh > smallHitSetSize/2 && now.Sub(c.forgot) >= crowdedInterval
}

// idle returns the keys of a set to delete. A crowded set keeps its keys for a shorter time.
func (c *hitCounts) idle(s hitSet, now time.Time) []ruleset.HitKey {
	keys, after := c.keys[s.name], pruneInterval
	if c.relogs(now) {
		if again := c.toRelog(keys); len(again) > 0 {
			return again
		}
	}
	if 2*len(keys) > int(c.size(s)) {
		after = crowdedInterval
	}
	if now.Sub(c.pruned) < after {
		return nil
	}
	var idle []ruleset.HitKey
	for k, last := range keys {
		if c.seconds(now)-last.moved >= int64(after/time.Second) {
			idle = append(idle, k)
		}
	}
	return idle
}

// relogs reports whether keys are to be deleted to have their next packets logged.
func (c *hitCounts) relogs(now time.Time) bool { return !now.Before(c.relog) }

// toRelog returns the keys of a set that are deleted when relogs is true.
func (c *hitCounts) toRelog(keys map[ruleset.HitKey]hitKey) []ruleset.HitKey {
	if c.foreign {
		return slices.Collect(maps.Keys(keys))
	}
	var again []ruleset.HitKey
	for k := range keys {
		if k.Class == ruleset.Knock && k.Protocol != unix.IPPROTO_TCP {
			again = append(again, k)
		}
	}
	if len(again) > relogMost {
		return nil
	}
	return again
}

// shrink frees the memory of keys that were deleted, which a map keeps. before is the number of keys
// before that.
func (c *hitCounts) shrink(s hitSet, before int) {
	if keys := c.keys[s.name]; before-len(keys) >= pruneChunk { // fewer are not worth it
		c.keys[s.name] = maps.Collect(maps.All(keys))
	}
}

// deleteKeys deletes keys of a set and counts the packets that came since the last reading.
func (t *Table) deleteKeys(s hitSet, idle []ruleset.HitKey) error {
	t.conn.sequence++
	e := newEncoder(tableName, t.conn.sequence)
	e.deleteKeys(s, idle)
	keys := t.hits.keys[s.name]
	err := t.conn.transactEcho(e.transaction(), e.sequence, func(kind, _ uint16, data []byte) error {
		if kind != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELSETELEM {
			return nil
		}
		return decodeCounts(data, func(raw []byte, packets uint64) {
			if k, ok := s.decode(raw); ok {
				t.hits.count(keys, k, packets, time.Time{})
			}
		})
	})
	if err != nil && !errors.Is(err, errUnsure) {
		return err
	}
	t.drift.sent++
	if err == nil {
		for _, k := range idle {
			delete(keys, k)
		}
	}
	return err
}

// forgetNoisy ends the limits for noisy sources: their set has no room for others otherwise. A
// source that is still noisy is added again.
func (t *Table) forgetNoisy() {
	t.conn.sequence++
	e := newEncoder(tableName, t.conn.sequence)
	for _, f := range families() {
		e.flushSet(setPlan{kernel: f.hitSets().noisy.name})
	}
	if t.conn.transact(e.transaction(), e.sequence) == nil {
		t.drift.sent++
	}
}

// deleteKeys adds messages that delete keys of a set and request an echo.
func (e *encoder) deleteKeys(s hitSet, keys []ruleset.HitKey) {
	const header = unix.SizeofNlAttr
	one := 3*header + s.keyLen()
	for len(keys) > 0 {
		n := min(len(keys), maxList/one)
		e.setMessage(unix.NFT_MSG_DELSETELEM, netlink.Echo, setPlan{kernel: s.name})
		e.attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, n*one)
		for _, k := range keys[:n] {
			e.attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, one-header)
			e.attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, header+s.keyLen())
			e.attribute(unix.NFTA_DATA_VALUE, s.keyLen())
			e.buf = s.encode(e.buf, k)
		}
		e.end()
		keys = keys[n:]
	}
}
