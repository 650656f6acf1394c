package enforce

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestKeeperWritesTheNewest: a disk that is full is tried again, at least every minute; one that
// hangs holds nothing up and is noticed, and when it goes on the newest is written.
func TestKeeperWritesTheNewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		var written []int
		keep := func(n int, err *error, hangs time.Duration) {
			t.Helper()
			began := time.Now()
			k.keep(func() error {
				time.Sleep(hangs)
				if *err == nil {
					written = append(written, n)
				}
				return *err
			})
			if time.Since(began) > 0 {
				t.Errorf("%d: keep waits", n)
			}
		}
		full := errors.New("no space left on device")
		keep(1, &full, 0)
		if k.done(<-k.doneC) || !k.failed {
			t.Error("full: it is done, or has not failed")
		}
		for range 20 {
			began := time.Now()
			<-k.due()
			if waited := time.Since(began); waited > 2*keepAgainMost || waited < clock.LeastWait {
				t.Errorf("it is tried again after %v", waited)
			}
			k.retry()
			if k.done(<-k.doneC) {
				t.Error("it is done although the disk is full")
			}
		}
		full = nil
		<-k.due()
		k.retry()
		if !k.done(<-k.doneC) || k.due() != nil || k.late() != nil || k.failed || len(written) != 1 {
			t.Errorf("there is room: written %v", written)
		}

		keep(2, &full, time.Hour)
		began := time.Now()
		<-k.late()
		if took := time.Since(began); took != keepMost {
			t.Errorf("that it hangs is noticed after %v", took)
		}
		k.hung()
		for n := 3; n < 5; n++ {
			keep(n, &full, 0)
			if k.late() != nil || !k.failed {
				t.Error("that it hangs is noticed again, or forgotten")
			}
		}
		if k.done(<-k.doneC) {
			t.Error("it is done although there is a newer one")
		}
		if !k.done(<-k.doneC) || written[len(written)-1] != 4 || len(written) != 3 {
			t.Errorf("it goes on: written %v", written)
		}
	})
}

// TestTheEndWaitsForKeepers: a list that came in force just before the agent ends is written, and
// the newest one; a disk that hangs is not waited for.
func TestTheEndWaitsForKeepers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		var (
			mu      sync.Mutex
			written []string
		)
		write := func(what string, hangs time.Duration) func() error {
			return func() error {
				time.Sleep(hangs)
				mu.Lock()
				defer mu.Unlock()
				written = append(written, what)
				return nil
			}
		}
		e.keeper.keep(write("list", time.Second))
		e.keeper.keep(write("newer list", time.Second))
		e.own.keeper.keep(write("own list", 100*time.Millisecond))
		e.asideKeeper.keep(write("refused list", time.Hour))
		began := time.Now()
		e.endKeepers()
		if took := time.Since(began); took != keepMost {
			t.Errorf("the end took %v", took)
		}
		if want := []string{"own list", "list", "newer list"}; !slices.Equal(written, want) {
			t.Errorf("written %v, want %v", written, want)
		}
		time.Sleep(2 * time.Hour) // the writer ends
	})
}

// TestAHangingDiskHoldsNothingUp: while the kept list is being written to a disk that hangs, the
// whitelist follows the host, and the status tells of the disk.
func TestAHangingDiskHoldsNothingUp(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
	a.host = host.New(host.Options{Root: t.TempDir()})
	a.fw = &stubborn{}
	e := a
	goesOnC := make(chan struct{})
	e.keeper.keep(func() error { <-goesOnC; return nil })
	e.pulled = blocklist.New(parsed(t, "198.51.100.1", "198.51.100.2"))
	began := time.Now()
	a.keepList()
	e.own.list = blocklist.New(parsed(t, "203.0.113.9"))
	e.own.keeper.keep(func() error { <-goesOnC; return nil })
	a.keepOwn()
	a.surveys.publish(survey{allow: blocklist.New(parsed(t, "198.51.100.2"))})
	a.takeSurvey(t.Context())
	if took := time.Since(began); took > keepMost/2 || e.enforced == nil || !e.enforced.allow.Contains(netip.MustParseAddr("198.51.100.2")) {
		t.Errorf("after %v in force: %+v", took, e.enforced)
	}
	for range 2 {
		a.keepHangs()
		a.keepOwnHangs()
	}
	if s := a.board.Latest(); !s.Holds(status.CondUnkept) || s.State != status.StateDegraded {
		t.Errorf("while it hangs: %s %q", s.State, s.Reason)
	}
	for _, text := range []string{"The list cannot be kept", "The custom blacklist cannot be kept yet"} {
		if n := logs.FilterMessageSnippet(text).Len(); n != 1 {
			t.Errorf("%q is logged %d times", text, n)
		}
	}
	close(goesOnC)
	for !e.keeper.done(<-e.keeper.doneC) { // the list, which follows
	}
	a.keepList()
	a.takeKept(<-e.keeper.doneC)
	if s := a.board.Latest(); s.Holds(status.CondUnkept) {
		t.Errorf("afterwards: %s %q", s.State, s.Reason)
	}
}

// TestRepairsSlowDown: the first repair of rules that another program changes comes at once. Two programs that fight over them do
// so once a minute in the end; after a time of peace it comes at once again.
func TestRepairsSlowDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r repairer
		repair := func() time.Duration {
			began := time.Now()
			r.lost(errors.New("changed"))
			<-r.due()
			r.done()
			r.last = time.Now()
			return time.Since(began)
		}
		if wait := repair(); wait > 0 {
			t.Errorf("the first waits %v", wait)
		}
		repairs, began := 0, time.Now()
		for ; time.Since(began) < time.Hour; repairs++ {
			if wait := repair(); wait > repairMost {
				t.Errorf("repair %d waits %v", repairs, wait)
			}
		}
		if repairs > 66 || repairs < 60 {
			t.Errorf("%d repairs in an hour", repairs)
		}
		time.Sleep(3 * repairMost)
		if wait := repair(); wait > 0 {
			t.Errorf("after a time of peace it waits %v", wait)
		}
	})
}

// settle waits until everything is written, however long a busy disk takes. A write that failed is not
// repeated.
func settle(e *Enforcer) {
	for _, k := range []*keeper{e.keeper, e.own.keeper, e.asideKeeper, e.names.keeper} {
		for k.busy {
			k.done(<-k.doneC)
		}
	}
}
