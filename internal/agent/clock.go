package agent

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leastWait is the shortest wait between two attempts at anything that may fail, whatever a
	// computation comes to.
	leastWait = time.Second
	// alarmTick is how often a wait looks at the clocks.
	alarmTick = time.Minute
	// maxSkew is how far two clocks may differ without one of them being wrong.
	maxSkew = time.Hour
)

// clock has the time in two ways. The wall clock may be wrong and be set. The time since boot is
// set by no one and goes on while the host is suspended, unlike the clock that Go's timers use.
type clock struct {
	wall func() time.Time
	boot func() time.Duration
}

// systemClock returns the clock of this host.
func systemClock() clock {
	return clock{wall: time.Now, boot: func() time.Duration {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil { // a kernel without it: before 2.6.39
			return 0
		}
		return time.Duration(ts.Nano())
	}}
}

// moment is a point in time by both clocks.
type moment struct {
	wall time.Time     // without a monotonic reading
	boot time.Duration // 0: not known, because the moment is of an earlier run
}

// now returns the present moment.
func (c clock) now() moment { return moment{wall: c.wall().Round(0), boot: c.boot()} }

// passed returns how long ago m was by the clock that says more: a wall clock that was put right,
// or the time since boot.
func (c clock) passed(m moment) time.Duration {
	now := c.now()
	return max(now.wall.Sub(m.wall), now.boot-m.boot)
}

// age returns how long ago m was. ok is false if that is unknown: m is of an earlier run, and the
// wall clock is wrong now or was wrong then.
func (c clock) age(m moment) (age time.Duration, ok bool) {
	now := c.now()
	if m.boot != 0 {
		return max(0, now.boot-m.boot), true
	}
	age = now.wall.Sub(m.wall)
	return max(0, age), plausible(m.wall) && plausible(now.wall) && age >= -maxSkew
}

// wallOf returns the wall time of m, by the clock as it is now if the clock of then cannot be
// right.
func (c clock) wallOf(m moment) time.Time {
	now := c.now()
	if m.boot == 0 || plausible(m.wall) || !plausible(now.wall) {
		return m.wall
	}
	return now.wall.Add(m.boot - now.boot)
}

// after returns the moment that comes when wait has passed.
func (c clock) after(wait time.Duration) moment {
	m := c.now()
	return moment{wall: m.wall.Add(wait), boot: m.boot + wait}
}

// plausible reports whether a wall clock can have shown t. This program is of 2026: an earlier
// clock has not been set yet.
func plausible(t time.Time) bool { return t.Year() >= 2026 }

// alarm is the end of a wait, by the clock that says more. Every wait between two pulls, reports or
// attempts passes through reset, which never makes it shorter than leastWait.
type alarm struct {
	clock clock
	began moment
	wait  time.Duration
	timer *time.Timer
}

// newAlarm makes an alarm that ends after wait.
func newAlarm(c clock, wait time.Duration) *alarm {
	a := &alarm{clock: c}
	a.reset(wait)
	return a
}

// reset begins a new wait.
func (a *alarm) reset(wait time.Duration) {
	a.began, a.wait = a.clock.now(), max(wait, leastWait)
	if a.timer == nil {
		a.timer = time.NewTimer(min(a.wait, alarmTick))
		return
	}
	a.timer.Reset(min(a.wait, alarmTick))
}

// tickC is ready when due is worth asking.
func (a *alarm) tickC() <-chan time.Time { return a.timer.C }

// due reports whether the wait has ended, after a tick. If it has not, another tick follows.
func (a *alarm) due() bool {
	left := a.wait - a.clock.passed(a.began)
	if left <= 0 {
		return true
	}
	a.timer.Reset(min(left, alarmTick))
	return false
}

func (a *alarm) stop() { a.timer.Stop() }
