package clock

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTicker checks that a Ticker ticks again and again, once for moments that have passed, and that
// the end of its context ends a wait.
func TestTicker(t *testing.T) {
	t.Parallel()
	const every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ticker := NewTicker(ctx, every)
	defer ticker.Stop()
	if _, ok := ticker.(*fdTicker); !ok {
		t.Errorf("the kernel has no timerfd: %T", ticker)
	}
	for range 3 {
		if !ticker.Wait() {
			t.Fatal("no tick")
		}
	}
	time.Sleep(5 * every)
	begin := time.Now()
	for range 3 { // one for those that have passed, and two more
		if !ticker.Wait() {
			t.Fatal("no tick")
		}
	}
	if took := time.Since(begin); took < every {
		t.Errorf("two ticks took %v, want more than %v: missed ticks are made up for", took, every)
	}
	endedC := make(chan bool)
	last := NewTicker(ctx, time.Hour)
	defer last.Stop()
	go func() { endedC <- last.Wait() }()
	cancel()
	if <-endedC || ticker.Wait() {
		t.Error("a tick after the end of the context")
	}
}

// TestTickersTickTogether checks that Tickers whose intervals are multiples tick at the same moment,
// whenever they were made.
func TestTickersTickTogether(t *testing.T) {
	t.Parallel()
	first := NewTicker(t.Context(), time.Hour).(*fdTicker)
	defer first.Stop()
	time.Sleep(30 * time.Millisecond)
	second := NewTicker(t.Context(), 2*time.Hour).(*fdTicker)
	defer second.Stop()
	left := func(f *fdTicker) (left int64) {
		err := f.conn.Control(func(fd uintptr) {
			raw, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", strconv.Itoa(int(fd))))
			if err != nil {
				t.Error(err)
			}
			_, value, _ := strings.Cut(string(raw), "it_value: (")
			value, _, _ = strings.Cut(value, ")")
			seconds, nanos, _ := strings.Cut(value, ", ")
			s, _ := strconv.ParseInt(seconds, 10, 64)
			n, _ := strconv.ParseInt(nanos, 10, 64)
			left = s*1e9 + n
		})
		if err != nil {
			t.Error(err)
		}
		return left
	}
	// The second reading is later, so the difference is a multiple of an hour and the time between.
	begin := time.Now()
	apart := left(second) - left(first)
	most := time.Since(begin).Nanoseconds()
	if off := ((apart % int64(time.Hour)) + int64(time.Hour)) % int64(time.Hour); off > most {
		t.Errorf("the next ticks are %d ns apart, want a multiple of an hour", apart)
	}
}

// TestTimeTicker checks that the Ticker of tests follows their clock.
func TestTimeTicker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour+time.Minute)
		defer cancel()
		ticker := NewTimeTicker(ctx, time.Hour)
		defer ticker.Stop()
		n := 0
		for ticker.Wait() {
			n++
		}
		if n != 3 {
			t.Errorf("%d ticks in three hours", n)
		}
	})
}
