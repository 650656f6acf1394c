package memory

import (
	"testing"
	"testing/synctest"
	"time"
)

// process is a process with a GC percentage and a size.
type process struct {
	gcPercent int
	size      int64
	released  int
}

func (p *process) reclaimer() *Reclaimer {
	return &Reclaimer{
		resident: func() int64 { return p.size },
		release:  func() { p.released++; p.size = 10 << 20 },
		percent: func(n int) int {
			before := p.gcPercent
			p.gcPercent = n
			return before
		},
	}
}

// TestReleasedOnceSettled checks that a series of works is followed by one release, and that the
// collector works harder only during the works.
func TestReleasedOnceSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &process{gcPercent: 100, size: 100 << 20}
		r := p.reclaimer()
		expect := func(when string, gcPercent, released int) {
			t.Helper()
			synctest.Wait()
			if p.gcPercent != gcPercent || p.released != released {
				t.Errorf("%s: GC percentage %d and %d releases, want %d and %d",
					when, p.gcPercent, p.released, gcPercent, released)
			}
		}
		end1 := r.Begin()
		end2 := r.Begin()
		expect("during two works", busyPercent, 0)
		time.Sleep(time.Hour)
		end1()
		end1()
		time.Sleep(time.Hour)
		expect("during the second work", busyPercent, 0)
		end2()
		time.Sleep(settled / 2)
		expect("before it is settled", 100, 0)
		end3 := r.Begin()
		time.Sleep(time.Hour)
		expect("during a third work", busyPercent, 0)
		end3()
		time.Sleep(settled)
		expect("after the works", 100, 1)
		time.Sleep(time.Hour)
		expect("long after the works", 100, 1)
	})
}

// TestSmallWorkIsNotReleased checks that work that hardly grows the process, such as a change of
// the allowlist, costs no garbage collection.
func TestSmallWorkIsNotReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &process{gcPercent: 100, size: 20 << 20}
		r := p.reclaimer()
		work := func(growth int64) int {
			end := r.Begin()
			p.size += growth
			end()
			time.Sleep(time.Minute)
			synctest.Wait()
			return p.released
		}
		for _, tt := range []struct {
			name     string
			growth   int64
			released int
		}{
			{"first", 0, 1},
			{"small", slack / 2, 1},
			{"as small", slack/2 - 1, 1},
			{"together with those not small", 1, 2},
			{"large", slack, 3},
		} {
			if got := work(tt.growth); got != tt.released {
				t.Errorf("%s: %d releases, want %d", tt.name, got, tt.released)
			}
		}
	})
}

// TestOperatorsPercentStays checks that a GC percentage lower than that for work is not raised.
func TestOperatorsPercentStays(t *testing.T) {
	t.Parallel()
	for _, percent := range []int{-1, 10, busyPercent} { // -1 is off
		p := &process{gcPercent: percent, size: 1}
		end := p.reclaimer().Begin()
		if p.gcPercent != percent {
			t.Errorf("%d: %d during work", percent, p.gcPercent)
		}
		end()
		if p.gcPercent != percent {
			t.Errorf("%d: %d after work", percent, p.gcPercent)
		}
	}
}

func TestNilReclaimer(t *testing.T) {
	t.Parallel()
	var r *Reclaimer
	r.Begin()()
}
