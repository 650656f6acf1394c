package deliver

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// TestAllowlistedInMemory checks that hits of a source that is allowlisted while they are in memory
// are in the history and not queued.
func TestAllowlistedInMemory(t *testing.T) {
	t.Parallel()
	r, allow, _ := newRecorder(t, nil)
	r.SetListed(blocks("203.0.113.9/32"))
	r.waiting.add(sensor.Window{Hits: []sensor.Hit{{Key: key(sensor.Attempt), Packets: 9}}}, time.Now())
	w, _, _ := r.waiting.take()
	if rows, _ := r.rows(w.Hits); len(rows) != 1 || rows[0].Silent {
		t.Errorf("rows %+v; want one that is reported", rows)
	}
	allow.Blocklist = blocks("203.0.113.9/32")
	if rows, _ := r.rows(w.Hits); len(rows) != 1 || !rows[0].Silent {
		t.Errorf("rows %+v; want one that is not reported", rows)
	}
}

// TestAllowlistedInFlight checks that a source that is allowlisted while its row is queued, in
// flight, or put back by an answer is not in the next batch, and that the other rows are.
func TestAllowlistedInFlight(t *testing.T) {
	t.Parallel()
	log, logs := logged()
	db, allow := store.New(store.Options{Dir: t.TempDir()}), &allowlist{}
	t.Cleanup(func() { _ = db.Close() })
	c := NewCourier(CourierOptions{Log: log})
	q := queue{db, allow, c.logWithdrawn}
	var hits []store.Hit
	for _, s := range []string{"203.0.113.9", "203.0.113.10", "203.0.113.11", "203.0.113.12"} {
		hits = append(hits, store.Hit{
			Source: netip.MustParseAddr(s), Protocol: 6, Port: 22, Service: "ssh", Packets: 9,
		})
	}
	now := time.Now()
	if err := db.Add(t.Context(), store.Record{From: now, To: now, Hits: hits, Report: true}); err != nil {
		t.Fatal(err)
	}
	next := func(when string, want ...string) []report.Row {
		t.Helper()
		batch, err := q.Batch(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range batch {
			got = append(got, r.Source.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: batch of %v, want %v", when, got, want)
		}
		return batch
	}
	allow.Blocklist = blocks("203.0.113.9/32")
	next("queued", "203.0.113.10", "203.0.113.11", "203.0.113.12")
	allow.Blocklist = blocks("203.0.113.9/32", "203.0.113.10/32")
	again := next("in flight", "203.0.113.11", "203.0.113.12")
	allow.Blocklist = blocks("203.0.113.11/32")
	if err := q.Done(t.Context(), 0, 0, again); err != nil {
		t.Fatal(err)
	}
	next("put back", "203.0.113.12")
	if n := logs.FilterLevelExact(zap.InfoLevel).Len(); n != 3 {
		t.Errorf("%d withdrawals are logged, want 3", n)
	}
}

// TestAllowlistedBetweenReads checks that a source that is allowlisted between the two reads of the
// allowlist is not in the batch.
func TestAllowlistedBetweenReads(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{Dir: t.TempDir()})
	t.Cleanup(func() { _ = s.Close() })
	source, asked := netip.MustParseAddr("203.0.113.9"), allowedLater(0)
	q := queue{s, &asked, func(int) {}}
	hits := []store.Hit{{Source: source, Protocol: 6, Port: 22, Service: "ssh", Packets: 9}}
	if err := s.Add(t.Context(), store.Record{From: time.Now(), To: time.Now(), Hits: hits, Report: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if batch, err := q.Batch(t.Context(), 10); err != nil || len(batch) > 0 {
			t.Errorf("got %v, %v, want an empty batch", batch, err)
		}
	}
	if n, err := s.Queued(t.Context()); n != 0 || err != nil {
		t.Errorf("%d rows wait, %v", n, err)
	}
}

// allowedLater is an Allowlist that has every source after its first answer.
type allowedLater int

func (a *allowedLater) Allows(netip.Addr) bool {
	*a++
	return *a > 1
}
