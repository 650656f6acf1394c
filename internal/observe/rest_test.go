package observe

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// restful is a toyKernel that counts the requests to it.
type restful struct {
	*toyKernel

	reads, dumps int
}

func (r *restful) Read() (ruleset.Counters, error) {
	n, err := r.toyKernel.Read()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	return n, err
}

func (r *restful) Hits() (ruleset.Hits, error) {
	h, err := r.toyKernel.Hits()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dumps++
	return h, err
}

// waits is a Ticker that counts its waits, and those that begin later than their tick.
type waits struct {
	clock.Ticker

	began    time.Time
	n, later int
}

func (w *waits) Wait() bool {
	w.n++
	if time.Since(w.began)%time.Second != 0 {
		w.later++
	}
	return w.Ticker.Wait()
}

// TestRest checks that a minute without packets takes one wake-up a second, one reading of the
// counter in each and a second one at the end of a window, and no reading of the keys. After a packet
// of a known key, which sends no event, both are read again.
func TestRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &restful{toyKernel: newToyKernel()}
		o, _, b := newTestObserver(t, k.toyKernel)
		o.o.Counter, o.o.Keys, o.reader.keys = k, k, k
		w := &waits{began: time.Now()}
		o.o.Ticker = func(ctx context.Context, every time.Duration) clock.Ticker {
			w.Ticker = clock.NewTimeTicker(ctx, every)
			return w
		}
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- o.Run(ctx) }()
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		pass(5500 * time.Millisecond)
		change := func(f func()) {
			k.mu.Lock()
			defer k.mu.Unlock()
			f()
		}
		change(func() { k.drop(knock(source(1), 22), 1) }) // the first packet of its key
		pass(15 * time.Second)
		change(func() { k.reads, k.dumps, w.n, w.later = 0, 0, 0, 0 })
		pass(60 * time.Second)
		if w.n != 60 || w.later != 0 || k.reads != 66 || k.dumps != 0 {
			t.Errorf("a minute at rest took %d wake-ups, %d of them with a pause, %d readings of the counter "+
				"and %d of the keys; want 60, 0, 66 and 0", w.n, w.later, k.reads, k.dumps)
		}
		change(func() { k.drop(knock(source(1), 22), 2) }) // no event
		pass(time.Second)
		if k.dumps != 1 || b.packets != 3 {
			t.Errorf("%d packets were taken in %d readings of the keys a second later, want 3 in 1", b.packets, k.dumps)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestIdleKeysAreRead checks that the keys are read now and then though nothing is dropped, because
// each reading has idle keys deleted, and that a kernel that does not count by key is left alone.
func TestIdleKeysAreRead(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			k := newToyKernel()
			k.plain = plain
			dumps := &restful{toyKernel: k}
			o, _, _ := newTestObserver(t, k)
			o.o.Keys, o.reader.keys = dumps, dumps
			run(t, o, k, time.Hour, func(n int) {
				if n == 0 {
					k.drop(knock(source(1), 22), 1)
				}
			})
			if want := map[bool]int{false: 6, true: 1}[plain]; dumps.dumps != want {
				t.Errorf("plain %v: %d readings in an hour, want %d", plain, dumps.dumps, want)
			}
		})
	}
}
