package deliver

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

func key(kind sensor.Kind) sensor.Key {
	return sensor.Key{Source: netip.MustParseAddr("203.0.113.9"), Port: 22, Protocol: sensor.TCP, Kind: kind}
}

// TestRecorderSince checks that hits that wait are after the previous collection, and that the
// first ones have no earlier time than their own collection.
func TestRecorderSince(t *testing.T) {
	t.Parallel()
	var r waiting
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	w := sensor.Window{Hits: []sensor.Hit{{Key: key(sensor.Attempt), Packets: 1}}}
	for _, want := range []struct{ from, to time.Time }{
		{noon, noon}, {noon, noon.Add(time.Second)}, {noon.Add(time.Second), noon.Add(2 * time.Second)},
	} {
		r.add(w, want.to)
		if _, from, to := r.take(); !from.Equal(want.from) || !to.Equal(want.to) {
			t.Errorf("got from %v to %v, want from %v to %v", from, to, want.from, want.to)
		}
	}
}

// TestUnrecorded checks that packets without room are counted once, and that the count never
// decreases.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	var r waiting
	at := time.Now()
	r.add(sensor.Window{Hits: []sensor.Hit{{Key: key(sensor.Attempt), Packets: 1}}, Overflow: 7}, at)
	want := func(when string) {
		if got := r.unrecorded(); got != 7 {
			t.Errorf("%s: got %d, want 7", when, got)
		}
	}
	want("waiting")
	for range 2 {
		w, from, _ := r.take()
		want("taken")
		r.putBack(w, from)
		want("put back")
	}
}

// TestRows checks that only hits that prove an attempt can be reported.
func TestRows(t *testing.T) {
	t.Parallel()
	r, _, _ := newRecorder(t, nil)
	r.SetListed(blocks("203.0.113.9/32"))
	var hits []sensor.Hit
	for _, kind := range []sensor.Kind{sensor.Attempt, sensor.Answer, sensor.Other} {
		hits = append(hits, sensor.Hit{Key: key(kind), Packets: 3})
	}
	row := store.Hit{Source: hits[0].Source, Protocol: 6, Port: 22, Service: "ssh", Packets: 3}
	want := []store.Hit{row, row, row}
	want[1].Port, want[1].Service, want[1].Silent = 0, "", true
	want[2].Service, want[2].Silent = "", true
	got, waiting := r.rows(hits)
	diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
	if diff != "" || len(waiting) != 0 {
		t.Errorf("%d wait; rows (-want +got):\n%s", len(waiting), diff)
	}
}

// TestSpecialSources checks that a source in special-purpose space, which no list can have, is in
// no report and not in the history.
func TestSpecialSources(t *testing.T) {
	t.Parallel()
	r, _, _ := newRecorder(t, nil)
	r.SetListed(blocks("10.0.0.7/32", "127.0.0.9/32", "fe80::9/128", "203.0.113.9/32"))
	var hits []sensor.Hit
	for _, source := range []string{"10.0.0.7", "127.0.0.9", "fe80::9", "203.0.113.9"} {
		k := sensor.Key{Source: netip.MustParseAddr(source), Port: 22, Protocol: sensor.TCP, Kind: sensor.Attempt}
		hits = append(hits, sensor.Hit{Key: k, Packets: 1})
	}
	rows, waiting := r.rows(hits)
	if len(rows) != 1 || rows[0].Source.String() != "203.0.113.9" || rows[0].Silent || len(waiting) != 0 {
		t.Errorf("rows %+v, waiting %+v; want 203.0.113.9 alone", rows, waiting)
	}
}

// TestHitsWaitForTheDatabase checks that hits are recorded and reported later if the database
// refuses them at first. The log has one line for the failure and one for its end.
func TestHitsWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	db := store.New(store.Options{Dir: t.TempDir(), Guard: func() error { return full }})
	t.Cleanup(func() { _ = db.Close() })
	r, _, logs := newRecorder(t, db)
	r.SetListed(blocks("203.0.113.9/32"))
	for _, packets := range []uint64{47, 3, 1} {
		r.waiting.add(sensor.Window{Hits: []sensor.Hit{{Key: key(sensor.Attempt), Packets: packets}}}, time.Now())
		if packets == 1 {
			full = nil
		}
		r.record(true)
	}
	if rows, err := db.Batch(t.Context(), 10); err != nil || len(rows) != 1 || rows[0].Packets != 51 {
		t.Errorf("the queue has %+v, %v; want 51 packets", rows, err)
	}
	warnings := logs.FilterLevelExact(zap.WarnLevel)
	if warnings.Len() != 1 ||
		!strings.HasPrefix(warnings.All()[0].Message, "Blocked connections are not recorded now") {
		t.Errorf("the warnings are %v", warnings.All())
	}
	if n := logs.FilterMessage("Blocked connections are recorded again").Len(); n != 1 {
		t.Errorf("%d lines for the end of the failure", n)
	}
}

// TestCountersAreSavedBeforeTheyAreShown checks, while packets are dropped, that each sum is in the
// database when it is shown, so that no sum decreases after a kill.
func TestCountersAreSavedBeforeTheyAreShown(t *testing.T) {
	t.Parallel()
	var dropped atomic.Uint64
	db := store.New(store.Options{Dir: t.TempDir()})
	t.Cleanup(func() { _ = db.Close() })
	ledger := counters.New(counters.Options{Stored: db.Counters, Kernel: func() (ruleset.Counters, error) {
		return ruleset.Counters{Packets4: dropped.Load()}, nil
	}})
	_, _ = ledger.Read()
	r, _, _ := newRecorder(t, db)
	r.o.Ledger = ledger
	show := func() (packets uint64, known bool) {
		sum, _, known := ledger.Total()
		r.Fill(&status.Status{})
		return sum.Packets4, known
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return r.Run(ctx) })
	for known := false; !known; _, known = show() { // the database is not open yet
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		dropped.Add(1)
		_, _ = ledger.Read()
		shown, _ := show()
		if saved, err := db.Counters(t.Context()); err != nil || saved.Packets4 != shown {
			t.Errorf("shown %d packets, saved %d, %v", shown, saved.Packets4, err)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
