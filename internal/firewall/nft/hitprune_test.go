package nft

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// TestDeletedKeysTakeNoMemory checks that the memory for the keys of a flood is free after it.
//
//nolint:paralleltest // it measures the heap
func TestDeletedKeysTakeNoMemory(t *testing.T) {
	const flood = 50_000
	s := families()[0].hitSets().hits
	c := hitCounts{keys: map[string]map[ruleset.HitKey]hitKey{s.name: {}}}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	key := func(i int) ruleset.HitKey {
		return ruleset.HitKey{Source: netip.AddrFrom4([4]byte{5, byte(i >> 16), byte(i >> 8), byte(i)}), Class: s.class}
	}
	for i := range flood {
		c.keys[s.name][key(i)] = hitKey{packets: 1}
	}
	full := heap()
	for i := range flood - 10 {
		delete(c.keys[s.name], key(i))
	}
	c.shrink(s, flood)
	if left := heap(); left > full || full-left < flood*32 {
		t.Errorf("%d bytes with %d keys, %d after them", full, flood, left)
	}
	if n := len(c.keys[s.name]); n != 10 {
		t.Errorf("%d keys, want 10", n)
	}
	runtime.KeepAlive(&c)
}
