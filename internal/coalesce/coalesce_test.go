package coalesce

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestGet checks that a thousand concurrent calls cause two readings, that a later call causes a
// later one, and that no result is older than its call.
func TestGet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0 // without a lock: the race detector finds concurrent readings
		s := New(100*time.Millisecond, func() time.Time {
			reads++
			began := time.Now()
			time.Sleep(10 * time.Millisecond)
			return began
		})
		ask := func() {
			if asked, got := time.Now(), s.Get(); got.Before(asked) {
				t.Errorf("called at %v, got a value of %v", asked, got)
			}
		}
		var all sync.WaitGroup
		for range 1000 {
			all.Go(ask)
		}
		all.Wait()
		if reads > 2 {
			t.Errorf("%d readings for concurrent calls, want at most 2", reads)
		}
		reads = 0
		start := time.Now()
		for range 20 { // at different times, so that some calls begin during a reading
			all.Go(func() {
				for range 10 {
					ask()
					time.Sleep(7 * time.Millisecond)
				}
			})
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if most := int(time.Since(start)/s.every) + 2; reads > most {
			t.Errorf("%d readings, want at most %d", reads, most)
		}
		before := reads
		time.Sleep(time.Second)
		if ask(); reads != before+1 {
			t.Errorf("a single call: %d readings, want 1", reads-before)
		}
	})
}

// TestWithin checks that a reading that hangs blocks each call for a bounded time, and that all
// calls wait for the same reading.
func TestWithin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangC := make(chan struct{})
		var waiting atomic.Int32
		s := New(100*time.Millisecond, func() int {
			waiting.Add(1)
			<-hangC
			return 7
		})
		for range 100 {
			start := time.Now()
			if _, ok := s.Within(2 * time.Second); ok || time.Since(start) != 2*time.Second {
				t.Fatalf("got %v after %v", ok, time.Since(start))
			}
		}
		if n := waiting.Load(); n != 1 {
			t.Errorf("%d readings are under way", n)
		}
		close(hangC)
		if v, ok := s.Within(2 * time.Second); !ok || v != 7 {
			t.Errorf("afterwards %v, %v", v, ok)
		}
	})
}
