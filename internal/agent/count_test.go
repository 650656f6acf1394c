package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// counting is a kernel of which the counters matter alone.
type counting struct {
	firewall.Backend

	n ruleset.Counters
}

func (c *counting) Counters() (ruleset.Counters, error) { return c.n, nil }

func four(packets uint64) ruleset.Counters {
	return ruleset.Counters{Packets4: packets, Bytes4: 40 * packets}
}

// TestCounting follows the kernel's counters over what becomes of the table: within a run, and from one run to the next.
func TestCounting(t *testing.T) {
	t.Parallel()
	kept := func(sum, raw uint64, running, inexact bool) store.Counters {
		return store.Counters{Packets4: sum, Bytes4: 40 * sum, Raw: [4]uint64{raw, 40 * raw}, Running: running, Inexact: inexact}
	}
	tests := []struct {
		name  string
		kept  store.Counters // by the run before
		began uint64         // the kernel's counter at the start
		reads []uint64       // and when it is read
		sum   uint64
		since uint64
		exact bool
	}{
		{"OK a first run", store.Counters{}, 0, []uint64{5, 5, 9}, 9, 9, true},
		{"bad a table made anew by somebody else counts from nothing", store.Counters{}, 0, []uint64{5, 0, 3}, 8, 8, false},
		{"OK the run before was stopped", kept(100, 0, false, false), 0, []uint64{5}, 105, 5, true},
		{"OK the run before was killed and its rules are left", kept(100, 70, true, false), 75, []uint64{80}, 110, 5, true},
		{"bad the run before was killed and its rules with it", kept(100, 70, true, false), 0, []uint64{80}, 180, 80, false},
		{"bad something was not counted once", kept(100, 0, false, true), 0, []uint64{5}, 105, 5, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := logged(t)
			k := &counting{n: four(tt.began)}
			a.fw = k
			a.beginCounting()
			if _, _, ok := a.total(); ok {
				t.Error("a total before it is known what was counted before")
			}
			a.drops.load(tt.kept)
			var since ruleset.Counters
			for _, n := range tt.reads {
				k.n = four(n)
				var err error
				if since, err = a.dropped(); err != nil {
					t.Fatal(err)
				}
			}
			sum, exact, ok := a.total()
			if !ok || exact != tt.exact || sum != four(tt.sum) || since != four(tt.since) {
				t.Errorf("got %+v in all and %+v in this run, exact %v, known %v; want %d and %d packets, exact %v",
					sum, since, exact, ok, tt.sum, tt.since, tt.exact)
			}
			last := tt.reads[len(tt.reads)-1]
			want := kept(tt.sum, last, false, !tt.exact)
			if diff := cmp.Diff(&want, a.countersToKeep(false)); diff != "" {
				t.Errorf("kept for the next run (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCountingLate has a database that cannot be read at the start: there is no total until it is known what it holds, and
// nothing is written over that.
func TestCountingLate(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	k := &counting{n: four(5)}
	a.fw = k
	if _, err := a.dropped(); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := a.total(); ok {
		t.Error("a total without what was counted before")
	}
	if c := a.countersToKeep(true); c != nil {
		t.Errorf("keeps %+v", c)
	}
	a.drops.load(store.Counters{Packets4: 100})
	if sum, _, ok := a.total(); !ok || sum.Packets4 != 105 {
		t.Errorf("shows %+v", sum)
	}
	if c := a.countersToKeep(true); c == nil || c.Packets4 != 105 {
		t.Errorf("keeps %+v, want 105 packets", c)
	}
}

// TestCountersAreKeptBeforeTheyAreShown asks for the status over and over while packets are dropped: whatever it shows is in
// the database then, so that a kill in the next instant takes nothing back.
func TestCountersAreKeptBeforeTheyAreShown(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	k := &rising{}
	a.fw = k
	a.store = store.New(store.Options{Dir: t.TempDir()})
	t.Cleanup(func() { _ = a.store.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return a.recordAll(ctx) })
	for a.board.Status().Dropped == nil { // the database is not open yet
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		k.packets.Add(1)
		s := a.board.Status()
		if kept, err := a.store.Counters(t.Context()); err != nil || kept.Packets4 != s.Dropped.Packets4 {
			t.Errorf("shown %d packets, kept %d, %v", s.Dropped.Packets4, kept.Packets4, err)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// rising is a kernel whose counter another goroutine raises.
type rising struct {
	kernel

	packets atomic.Uint64
}

func (r *rising) Counters() (ruleset.Counters, error) { return four(r.packets.Load()), nil }
