package clock

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hands are the two clocks of a test. Both advance with time.Now.
type hands struct {
	set, slept atomic.Int64 // change of the wall clock, and time of suspension, in ns
	began      time.Time
}

func (h *hands) clock() Clock {
	h.began = time.Now()
	return Clock{
		Wall: func() time.Time { return time.Now().Round(0).Add(time.Duration(h.set.Load() + h.slept.Load())) },
		Boot: func() time.Duration { return time.Hour + time.Since(h.began) + time.Duration(h.slept.Load()) },
	}
}

// TestAlarm checks that a wait ends when its time has passed on the wall clock or since boot, and
// never within a second.
func TestAlarm(t *testing.T) {
	t.Parallel()
	const wait = 24 * time.Hour
	for name, tt := range map[string]struct {
		wait        time.Duration
		set, slept  time.Duration // an hour after the beginning
		least, most time.Duration // by Go's timers, which stop while the host is suspended
	}{
		"OK nothing happens":          {wait, 0, 0, wait, wait},
		"OK suspended for part of it": {wait, 0, 10 * time.Hour, 14 * time.Hour, 14*time.Hour + AlarmTick},
		"OK suspended for longer":     {wait, 0, 100 * time.Hour, time.Hour, time.Hour + AlarmTick},
		"OK the clock was set ahead":  {wait, 100 * time.Hour, 0, time.Hour, time.Hour + AlarmTick},
		"OK the clock was set back":   {wait, -100 * time.Hour, 0, wait, wait},
		"OK set back while suspended": {wait, -100 * time.Hour, 30 * time.Hour, time.Hour, time.Hour + AlarmTick},
		"bad a wait of zero":          {0, 0, 0, LeastWait, LeastWait},
		"bad a negative wait":         {-wait, 0, 0, LeastWait, LeastWait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := &hands{}
				c, begin := h.clock(), time.Now()
				a := NewAlarm(c, tt.wait)
				defer a.Stop()
				for {
					<-a.TickC()
					if time.Since(begin) >= time.Hour {
						h.set.Store(int64(tt.set))
						h.slept.Store(int64(tt.slept))
					}
					if a.Due() {
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

// TestAge checks that the age of a list of this run does not depend on the wall clock, and that the
// age of a saved list is unknown if the clock is or was wrong.
func TestAge(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(wall time.Time, boot time.Duration) Clock {
		return Clock{Wall: func() time.Time { return wall }, Boot: func() time.Duration { return boot }}
	}
	behind, ahead := time.Unix(3600, 0), noon.AddDate(10, 0, 0)
	for name, tt := range map[string]struct {
		c     Clock
		m     Moment
		want  time.Duration
		known bool
	}{
		"OK of this run":                       {at(noon.Add(2*time.Hour), 3*time.Hour), Moment{noon, time.Hour}, 2 * time.Hour, true},
		"OK of this run, clock set back":       {at(behind, 3*time.Hour), Moment{noon, time.Hour}, 2 * time.Hour, true},
		"OK of this run, clock set ahead":      {at(ahead, 3*time.Hour), Moment{noon, time.Hour}, 2 * time.Hour, true},
		"OK of this run, clock was not set":    {at(noon, 3*time.Hour), Moment{behind, time.Hour}, 2 * time.Hour, true},
		"OK saved":                             {at(noon.Add(48*time.Hour), time.Minute), Moment{Wall: noon}, 48 * time.Hour, true},
		"OK saved, clocks differ a little":     {at(noon.Add(-time.Minute), time.Minute), Moment{Wall: noon}, 0, true},
		"bad saved, clock is behind":           {at(behind, time.Minute), Moment{Wall: noon}, 0, false},
		"bad saved, clock is hours behind":     {at(noon.Add(-5*time.Hour), time.Minute), Moment{Wall: noon}, 0, false},
		"bad saved while the clock was behind": {at(noon, time.Minute), Moment{Wall: behind}, 0, false},
	} {
		got, known := tt.c.Age(tt.m)
		if known != tt.known || known && got != tt.want {
			t.Errorf("%s: %v, known %t; want %v, %t", name, got, known, tt.want, tt.known)
		}
	}
}
