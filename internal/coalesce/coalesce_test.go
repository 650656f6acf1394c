package coalesce

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestShared: a thousand who ask at once cause two readings, those who ask later a later one, and
// none gets an answer from before the question.
func TestShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0 // one reading at a time: the race detector sees it otherwise
		s := New(100*time.Millisecond, func() time.Time {
			reads++
			began := time.Now()
			time.Sleep(10 * time.Millisecond)
			return began
		})
		ask := func() {
			if asked, got := time.Now(), s.Get(); got.Before(asked) {
				t.Errorf("asked at %v, answered with what was so at %v", asked, got)
			}
		}
		var all sync.WaitGroup
		for range 1000 {
			all.Go(ask)
		}
		all.Wait()
		if reads > 2 {
			t.Errorf("%d readings for who asked at once, want at most 2", reads)
		}
		reads = 0
		start := time.Now()
		for range 20 { // each at another moment, so that some ask during a reading
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
			t.Errorf("a single question: %d readings, want 1", reads-before)
		}
	})
}

// TestSharedThatHangs: a reading that does not end holds up each question for a bounded time, is
// one reading however many ask, and is over when it ends.
func TestSharedThatHangs(t *testing.T) {
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
				t.Fatalf("answered %v after %v", ok, time.Since(start))
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
