package clock

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// LeastWait is the shortest wait between two attempts at anything that may fail. A shorter
	// result of a computation becomes this.
	LeastWait = time.Second
	// AlarmTick is the time between two readings of the clocks during a wait.
	AlarmTick = time.Minute
	// maxSkew is how far two clocks may differ without one of them being wrong.
	maxSkew = time.Hour
)

// Clock has the time in two ways. The wall clock may be wrong and can be set. The time since boot
// cannot be set and continues while the host is suspended, unlike the clock of Go's timers.
type Clock struct {
	Wall func() time.Time
	Boot func() time.Duration
}

// System returns the clock of this host.
func System() Clock {
	return Clock{Wall: time.Now, Boot: func() time.Duration {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil { // a kernel without it: before 2.6.39
			return 0
		}
		return time.Duration(ts.Nano())
	}}
}

// Moment is a point in time by both clocks.
type Moment struct {
	Wall time.Time     // without a monotonic reading
	Boot time.Duration // 0 if unknown, because the moment is of an earlier run
}

// Now returns the present moment.
func (c Clock) Now() Moment { return Moment{Wall: c.Wall().Round(0), Boot: c.Boot()} }

// Passed returns the time since m by the clock on which more has passed: a corrected wall clock, or
// the time since boot.
func (c Clock) Passed(m Moment) time.Duration {
	now := c.Now()
	return max(now.Wall.Sub(m.Wall), now.Boot-m.Boot)
}

// Age returns the time since m. ok is false if it is unknown: m is of an earlier run, and the wall
// clock is wrong now or was wrong then.
func (c Clock) Age(m Moment) (age time.Duration, ok bool) {
	now := c.Now()
	if m.Boot != 0 {
		return max(0, now.Boot-m.Boot), true
	}
	age = now.Wall.Sub(m.Wall)
	return max(0, age), plausible(m.Wall) && plausible(now.Wall) && age >= -maxSkew
}

// WallOf returns the wall time of m. If the clock was wrong at m, it is computed from the present
// time.
func (c Clock) WallOf(m Moment) time.Time {
	now := c.Now()
	if m.Boot == 0 || plausible(m.Wall) || !plausible(now.Wall) {
		return m.Wall
	}
	return now.Wall.Add(m.Boot - now.Boot)
}

// After returns the moment that comes when wait has passed.
func (c Clock) After(wait time.Duration) Moment {
	m := c.Now()
	return Moment{Wall: m.Wall.Add(wait), Boot: m.Boot + wait}
}

// plausible reports whether a wall clock that is set can show t. This program is of 2026, so a
// clock with an earlier time is not set yet.
func plausible(t time.Time) bool { return t.Year() >= 2026 }

// Alarm is the end of a wait, by the clock on which more has passed. Every wait between two pulls,
// reports or attempts goes through Reset, which makes it at least LeastWait.
type Alarm struct {
	clock Clock
	began Moment
	wait  time.Duration
	timer *time.Timer
}

// NewAlarm returns an Alarm that ends after wait.
func NewAlarm(c Clock, wait time.Duration) *Alarm {
	a := &Alarm{clock: c}
	a.Reset(wait)
	return a
}

// Reset begins a new wait.
func (a *Alarm) Reset(wait time.Duration) {
	a.began, a.wait = a.clock.Now(), max(wait, LeastWait)
	if a.timer == nil {
		a.timer = time.NewTimer(min(a.wait, AlarmTick))
		return
	}
	a.timer.Reset(min(a.wait, AlarmTick))
}

// TickC has a value when Due may report true.
func (a *Alarm) TickC() <-chan time.Time { return a.timer.C }

// Due reports whether the wait has ended, after a tick. If it has not, another tick follows.
func (a *Alarm) Due() bool {
	left := a.Left()
	if left <= 0 {
		return true
	}
	a.timer.Reset(min(left, AlarmTick))
	return false
}

// Left returns the rest of the wait; 0 or less if it has ended.
func (a *Alarm) Left() time.Duration { return a.wait - a.clock.Passed(a.began) }

// Stop releases the timer. No tick follows.
func (a *Alarm) Stop() { a.timer.Stop() }

// Sleep waits for d. It reports false if ctx ends first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
