package enforce

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// suspender is a clock whose wall time and time since boot advance with time.Now, and by suspends.
type suspender struct {
	set, slept atomic.Int64 // by how much the wall clock was set, and how long the host was suspended, in ns
	began      time.Time
}

func (h *suspender) clock() clock.Clock {
	h.began = time.Now()
	return clock.Clock{
		Wall: func() time.Time { return time.Now().Round(0).Add(time.Duration(h.set.Load() + h.slept.Load())) },
		Boot: func() time.Duration { return time.Hour + time.Since(h.began) + time.Duration(h.slept.Load()) },
	}
}

// lister is an API whose list is constant. It counts pulls.
type lister struct{ pulls atomic.Int32 }

func (l *lister) Blacklist(context.Context, sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error) {
	l.pulls.Add(1)
	return &sikkerapi.BlacklistStream{ReadCloser: io.NopCloser(strings.NewReader("203.0.113.9\n"))}, nil
}

// TestPullIsDueAfterSuspend suspends a host that pulls once a day. Go's timers do not see the
// suspend. The host pulls within a minute of its resume, once, and a day later again.
func TestPullIsDueAfterSuspend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := newEnforcer(t, "SIKKER_DRY_RUN=true")
		api, h := &lister{}, &suspender{}
		a.o.Clock = h.clock()
		a.sikker().feed = feed.NewSikker(feed.SikkerOptions{API: api})
		nothing := func(context.Context) host.Whitelist { return host.Whitelist{} }
		a.surveys = newSurveyor(nothing, nothing)
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 2)
		go func() { doneC <- a.surveys.Run(ctx) }()
		go func() { doneC <- a.Run(ctx) }()
		for _, step := range []struct {
			name  string
			slept time.Duration
			then  time.Duration
			pulls int32
		}{
			{"at the start", 0, 30 * time.Minute, 1},
			{"suspended for too short", 10 * time.Hour, 2 * time.Minute, 1},
			{"suspended for the rest of the day", 14 * time.Hour, 2 * time.Minute, 2},
			{"awake", 0, 20 * time.Hour, 2},
			{"a day later", 0, 5 * time.Hour, 3},
		} {
			h.slept.Add(int64(step.slept))
			time.Sleep(step.then)
			if n := api.pulls.Load(); n != step.pulls {
				t.Errorf("%s: %d pulls, want %d", step.name, n, step.pulls)
			}
		}
		cancel()
		if err := errors.Join(<-doneC, <-doneC); err != nil {
			t.Error(err)
		}
	})
}
