package counters

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// ledger returns a Ledger of a kernel whose counter is *n.
func ledger(n *ruleset.Counters) *Ledger {
	return New(Options{Kernel: func() (ruleset.Counters, error) { return *n, nil }})
}

func four(packets uint64) ruleset.Counters {
	return ruleset.Counters{Packets4: packets, Bytes4: 40 * packets}
}

// TestLedger checks the sums over new tables within a run, and from one run to the next.
func TestLedger(t *testing.T) {
	t.Parallel()
	saved := func(sum, raw uint64, running, inexact bool) store.Counters {
		return store.Counters{
			Packets4: sum, Bytes4: 40 * sum, Raw: [4]uint64{raw, 40 * raw}, Running: running, Inexact: inexact,
		}
	}
	tests := []struct {
		name  string
		saved store.Counters // by the previous run
		began uint64         // the kernel's counter at the start
		reads []uint64       // and when it is read
		sum   uint64
		since uint64
		exact bool
	}{
		{"OK a first run", store.Counters{}, 0, []uint64{5, 5, 9}, 9, 9, true},
		{"bad a new table of another program counts from 0", store.Counters{}, 0, []uint64{5, 0, 3}, 8, 8, false},
		{"OK the previous run was stopped", saved(100, 0, false, false), 0, []uint64{5}, 105, 5, true},
		{"OK the previous run was killed, its rules stay", saved(100, 70, true, false), 75, []uint64{80}, 110, 5, true},
		{"bad the previous run and its rules are gone", saved(100, 70, true, false), 0, []uint64{80}, 180, 80, false},
		{"bad earlier sums were not exact", saved(100, 0, false, true), 0, []uint64{5}, 105, 5, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			now := four(tt.began)
			l := ledger(&now)
			_, _ = l.Read()
			if _, _, ok := l.Total(); ok {
				t.Error("a total before the sums of earlier runs are known")
			}
			l.load(tt.saved)
			var since ruleset.Counters
			for _, n := range tt.reads {
				now = four(n)
				var err error
				if since, err = l.Read(); err != nil {
					t.Fatal(err)
				}
			}
			sum, exact, ok := l.Total()
			if !ok || exact != tt.exact || sum != four(tt.sum) || since != four(tt.since) {
				t.Errorf("got %+v in all and %+v in this run, exact %v, known %v; want %d and %d packets, exact %v",
					sum, since, exact, ok, tt.sum, tt.since, tt.exact)
			}
			last := tt.reads[len(tt.reads)-1]
			want := saved(tt.sum, last, false, !tt.exact)
			if diff := cmp.Diff(&want, l.Unsaved(false)); diff != "" {
				t.Errorf("saved for the next run (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLedgerWithoutStore checks that there is no total while the database cannot be read, and that
// its sums are not overwritten.
func TestLedgerWithoutStore(t *testing.T) {
	t.Parallel()
	now := four(5)
	l := ledger(&now)
	if _, err := l.Read(); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := l.Total(); ok {
		t.Error("a total without the sums of earlier runs")
	}
	if c := l.Unsaved(true); c != nil {
		t.Errorf("saves %+v", c)
	}
	l.load(store.Counters{Packets4: 100})
	if sum, _, ok := l.Total(); !ok || sum.Packets4 != 105 {
		t.Errorf("shows %+v", sum)
	}
	if c := l.Unsaved(true); c == nil || c.Packets4 != 105 {
		t.Errorf("saves %+v, want 105 packets", c)
	}
}

// TestKernelHangs checks that a kernel that does not answer leaves the sums as they were, and delays
// ReadSoon and Unsaved by two seconds at most.
func TestKernelHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now, hangs, answerC := four(5), false, make(chan struct{})
		l := New(Options{Kernel: func() (ruleset.Counters, error) {
			if hangs {
				<-answerC
			}
			return now, nil
		}})
		_, _ = l.Read()
		l.load(store.Counters{})
		now = four(7)
		_, _ = l.Read()
		now, hangs = four(9), true
		start := time.Now()
		if since := l.ReadSoon(); since != four(2) {
			t.Errorf("ReadSoon returned %+v, want 2 packets", since)
		}
		if c := l.Unsaved(true); c == nil || c.Packets4 != 7 {
			t.Errorf("Unsaved returned %+v, want 7 packets", c)
		}
		if took := time.Since(start); took > 2*kernelMost {
			t.Errorf("both took %v, want %v at most", took, 2*kernelMost)
		}
		close(answerC)
		if since := l.ReadSoon(); since != four(4) {
			t.Errorf("when the kernel answers, ReadSoon returned %+v, want 4 packets", since)
		}
	})
}

// TestLedgerExact checks which events make the sums inexact.
func TestLedgerExact(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		event func(l *Ledger, now *ruleset.Counters, err *error)
		exact bool
	}{
		"OK an announced new table": {func(l *Ledger, now *ruleset.Counters, _ *error) { l.Reset(); *now = four(2) }, true},
		"OK an error of the kernel": {func(l *Ledger, _ *ruleset.Counters, err *error) {
			*err = errors.New("EPERM")
			_, _ = l.Read()
			*err = nil
		}, true},
		"bad a new table of another program": {func(_ *Ledger, now *ruleset.Counters, _ *error) { *now = four(2) }, false},
		"bad packets that no figure has":     {func(l *Ledger, _ *ruleset.Counters, _ *error) { l.MarkInexact() }, false},
	} {
		now, err := four(5), error(nil)
		l := New(Options{Kernel: func() (ruleset.Counters, error) { return now, err }})
		_, _ = l.Read()
		l.load(store.Counters{})
		tt.event(l, &now, &err)
		_, _ = l.Read()
		if _, exact, ok := l.Total(); exact != tt.exact || !ok {
			t.Errorf("%s: exact %t, known %t; want exact %t", name, exact, ok, tt.exact)
		}
	}
	// A kernel that answers with an error at first may have counted packets since the start.
	err := errors.New("EPERM")
	l := New(Options{Kernel: func() (ruleset.Counters, error) { return four(5), err }})
	_, _ = l.Read()
	err = nil
	_, _ = l.Read()
	l.load(store.Counters{})
	if _, exact, _ := l.Total(); exact {
		t.Error("exact after an error at the first reading")
	}
}

// TestSavedOnce checks that sums that the database has are not saved again.
func TestSavedOnce(t *testing.T) {
	t.Parallel()
	now := four(5)
	l := ledger(&now)
	_, _ = l.Read()
	l.load(store.Counters{})
	c := l.Unsaved(true)
	if c == nil {
		t.Fatal("nothing to save")
	}
	if again := l.Unsaved(true); again == nil {
		t.Error("a save that failed is not repeated")
	}
	l.Saved(c)
	l.Saved(nil)
	if again := l.Unsaved(true); again != nil {
		t.Errorf("saves %+v again", again)
	}
	if last := l.Unsaved(false); last == nil || last.Running {
		t.Errorf("the end of the run is saved as %+v", last)
	}
}
