package agent

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hands are the two clocks of a test. Its wall clock goes on with time.Now, and the time since boot
// with it.
type hands struct {
	set, slept atomic.Int64 // by how much the wall clock was set, and how long the host was suspended, in ns
	began      time.Time
}

func (h *hands) clock() clock {
	h.began = time.Now()
	return clock{
		wall: func() time.Time { return time.Now().Round(0).Add(time.Duration(h.set.Load() + h.slept.Load())) },
		boot: func() time.Duration { return time.Hour + time.Since(h.began) + time.Duration(h.slept.Load()) },
	}
}

// TestAlarm ends a wait when its time has come by the wall clock or since boot, and never sooner
// than a second.
func TestAlarm(t *testing.T) {
	t.Parallel()
	const wait = 24 * time.Hour
	for name, tt := range map[string]struct {
		wait        time.Duration
		set, slept  time.Duration // an hour after the beginning
		least, most time.Duration // by Go's timers, which stop while the host is suspended
	}{
		"OK nothing happens":                  {wait, 0, 0, wait, wait},
		"OK suspended for part of it":         {wait, 0, 10 * time.Hour, 14 * time.Hour, 14*time.Hour + alarmTick},
		"OK suspended for longer":             {wait, 0, 100 * time.Hour, time.Hour, time.Hour + alarmTick},
		"OK the clock was set ahead":          {wait, 100 * time.Hour, 0, time.Hour, time.Hour + alarmTick},
		"OK the clock was put back":           {wait, -100 * time.Hour, 0, wait, wait},
		"OK put back while it was suspended":  {wait, -100 * time.Hour, 30 * time.Hour, time.Hour, time.Hour + alarmTick},
		"bad a wait of nothing is none":       {0, 0, 0, leastWait, leastWait},
		"bad a wait of less than nothing too": {-wait, 0, 0, leastWait, leastWait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := &hands{}
				c, begin := h.clock(), time.Now()
				a := newAlarm(c, tt.wait)
				defer a.stop()
				for {
					<-a.tickC()
					if time.Since(begin) >= time.Hour {
						h.set.Store(int64(tt.set))
						h.slept.Store(int64(tt.slept))
					}
					if a.due() {
						break
					}
				}
				if took := time.Since(begin); took < tt.least || took > tt.most {
					t.Errorf("it took %v, want %v to %v", took, tt.least, tt.most)
				}
			})
		})
	}
}

// TestAge: the age of a list of this run does not depend on the wall clock; that of a kept one is
// unknown while a clock is or was wrong.
func TestAge(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(wall time.Time, boot time.Duration) clock {
		return clock{wall: func() time.Time { return wall }, boot: func() time.Duration { return boot }}
	}
	behind, ahead := time.Unix(3600, 0), noon.AddDate(10, 0, 0)
	for name, tt := range map[string]struct {
		c     clock
		m     moment
		want  time.Duration
		known bool
	}{
		"OK of this run":                      {at(noon.Add(2*time.Hour), 3*time.Hour), moment{noon, time.Hour}, 2 * time.Hour, true},
		"OK of this run, clock put back":      {at(behind, 3*time.Hour), moment{noon, time.Hour}, 2 * time.Hour, true},
		"OK of this run, clock set ahead":     {at(ahead, 3*time.Hour), moment{noon, time.Hour}, 2 * time.Hour, true},
		"OK of this run, clock was not set":   {at(noon, 3*time.Hour), moment{behind, time.Hour}, 2 * time.Hour, true},
		"OK kept":                             {at(noon.Add(48*time.Hour), time.Minute), moment{wall: noon}, 48 * time.Hour, true},
		"OK kept, clocks differ a little":     {at(noon.Add(-time.Minute), time.Minute), moment{wall: noon}, 0, true},
		"bad kept, clock is behind":           {at(behind, time.Minute), moment{wall: noon}, 0, false},
		"bad kept, clock is hours behind":     {at(noon.Add(-5*time.Hour), time.Minute), moment{wall: noon}, 0, false},
		"bad kept while the clock was behind": {at(noon, time.Minute), moment{wall: behind}, 0, false},
	} {
		got, known := tt.c.age(tt.m)
		if known != tt.known || known && got != tt.want {
			t.Errorf("%s: %v, known %t; want %v, %t", name, got, known, tt.want, tt.known)
		}
	}
}

// TestTimesInStatus: a list of this run keeps its age and place in time when the clock is put
// right, and a kept list of the future has none; the status says so, and stays active.
func TestTimesInStatus(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a, _ := logged(t)
	a.fw = &kernel{}
	wall, boot := time.Unix(0, 0), time.Hour
	a.clock = clock{wall: func() time.Time { return wall }, boot: func() time.Duration { return boot }}
	a.setStatus(func(s *Status) { s.enforcing = StateActive })
	a.setPulled(pulled{list: blocks("203.0.113.9/32"), at: a.clock.now()})
	a.setStatus(func(s *Status) { s.nextPull = a.clock.after(24 * time.Hour) })
	boot += 2 * time.Hour
	wall = noon // NTP has come
	s := a.now()
	if s.State != StateActive || !s.ageKnown || s.age != 2*time.Hour || !s.LastPull.Equal(noon.Add(-2*time.Hour)) {
		t.Errorf("of this run: %s, age %v %t, pulled %v", s.State, s.age, s.ageKnown, s.LastPull)
	}
	if !s.NextPull.Before(noon) {
		t.Errorf("next pull at %v; the clock that was set has it due at once", s.NextPull)
	}
	a.setStatus(func(s *Status) { s.nextPull = a.clock.after(24 * time.Hour) })
	wall = noon.Add(-10 * time.Hour)
	if s := a.now(); !s.NextPull.Equal(noon.Add(14 * time.Hour)) {
		t.Errorf("next pull at %v with the clock put back, want %v", s.NextPull, noon.Add(14*time.Hour))
	}

	wall = noon
	a.setPulled(pulled{list: blocks("203.0.113.9/32"), at: moment{wall: noon.AddDate(0, 0, 3)}})
	a.setStatus(func(s *Status) { s.Kept = true })
	s = a.now()
	var held []Code
	for _, c := range s.Conditions {
		held = append(held, c.Code)
	}
	if diff := cmp.Diff([]Code{condAge}, held); diff != "" || s.State != StateActive || s.ageKnown || s.Source != sourceKept {
		t.Errorf("kept of the future: %s, %s, age known %t, conditions (-want +got):\n%s", s.State, s.Source, s.ageKnown, diff)
	}
	wall = noon.AddDate(0, 0, 4)
	if s := a.now(); !s.ageKnown || s.age != 24*time.Hour || len(s.Conditions) != 0 {
		t.Errorf("with the clock put right: age %v %t, %d conditions", s.age, s.ageKnown, len(s.Conditions))
	}
}
