package store

import (
	"net/netip"
	"testing"
	"time"
)

// TestFullQueue holds a small queue to its bound: first by merging the oldest rows of a source, then by dropping the
// smallest.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.most = 100
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	add := func(at time.Time, n int, net, packets byte, services ...string) {
		t.Helper()
		var hits []Hit
		for i := range n {
			for _, service := range services {
				hits = append(hits, Hit{
					Source: netip.AddrFrom4([4]byte{net, 0, 0, byte(i)}), Protocol: 6, Port: 22, Service: service, Packets: uint64(packets),
				})
			}
		}
		if err := s.Add(t.Context(), at, hits, true); err != nil {
			t.Fatal(err)
		}
		if queued, err := s.Queued(t.Context()); err != nil || queued > s.most {
			t.Errorf("%d rows queued, %v; want at most %d", queued, err, s.most)
		}
	}
	add(noon, 20, 5, 2, "ssh", "http")        // 40 rows
	add(noon.Add(time.Hour), 70, 6, 1, "ssh") // 110: ten pairs of the first are merged
	totals, err := s.Totals(t.Context())
	if err != nil || totals.Merged != 10 || totals.Dropped != 0 {
		t.Errorf("totals after merging: %+v, %v", totals, err)
	}
	add(noon.Add(2*time.Hour), 50, 7, 9, "ssh")
	if totals, err = s.Totals(t.Context()); err != nil || totals.Dropped == 0 {
		t.Errorf("totals after dropping: %+v, %v", totals, err)
	}
	top, err := s.Batch(t.Context(), 60)
	if err != nil || len(top) != 60 || top[49].Packets != 9 || top[50].Packets != 4 {
		t.Errorf("the busiest are not kept: %d rows, %+v, %v", len(top), top[min(50, len(top)-1)], err)
	}
}
