package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeeperWritesTheNewest: a disk that is full is tried again, at least every minute; one that hangs holds nobody up for long,
// and when it goes on the newest is written.
func TestKeeperWritesTheNewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		var written []int
		write := func(n int, err *error, hangs time.Duration) func() error {
			return func() error {
				time.Sleep(hangs)
				if *err == nil {
					written = append(written, n)
				}
				return *err
			}
		}
		full := errors.New("no space left on device")
		if err := k.keep(write(1, &full, 0), keepMost); !errors.Is(err, full) {
			t.Errorf("full: got %v", err)
		}
		for range 20 {
			began := time.Now()
			<-k.due()
			if waited := time.Since(began); waited > 2*keepAgainMost || waited < leastWait {
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
		if !k.done(<-k.doneC) || k.due() != nil || len(written) != 1 {
			t.Errorf("there is room: written %v", written)
		}

		began := time.Now()
		if err := k.keep(write(2, &full, time.Hour), keepMost); !errors.Is(err, errHangs) || time.Since(began) > 2*keepMost {
			t.Errorf("it hangs: got %v after %v", err, time.Since(began))
		}
		for n := 3; n < 5; n++ {
			if err := k.keep(write(n, &full, 0), keepMost); !errors.Is(err, errKeeping) {
				t.Errorf("it still hangs: got %v", err)
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
