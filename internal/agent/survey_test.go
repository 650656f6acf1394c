package agent

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// TestSurveyAfterChange: a change that is reported while a survey is under way is in the survey after it, whichever part
// of the survey takes long.
func TestSurveyAfterChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var changes, seen atomic.Int64 // of the host, and those that the newest survey knows
		s := newSurveyor(
			func(context.Context) host.Whitelist {
				n := changes.Load()
				time.Sleep(time.Second)
				seen.Store(n)
				return host.Whitelist{}
			},
			func(context.Context) host.Whitelist { time.Sleep(10 * time.Second); return host.Whitelist{} })
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		for range 5 {
			changes.Add(1)
			s.ask()
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(4 * time.Second) // names take longer, and nothing waits for them
		if got := seen.Load(); got != 5 {
			t.Errorf("the newest survey knows %d changes of 5", got)
		}
		time.Sleep(time.Minute)
		changes.Add(1) // which no watch reports
		time.Sleep(surveyEvery + 2*time.Second)
		if got := seen.Load(); got != 6 {
			t.Errorf("the newest survey knows %d changes of 6", got)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestSurveyAwait: a pull waits for a survey that began with it, but for names that do not resolve no longer than it says;
// for the first survey it waits until there is one.
func TestSurveyAwait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		local, names := time.Minute, time.Hour
		s := newSurveyor(
			func(context.Context) host.Whitelist { time.Sleep(local); return host.Whitelist{} },
			func(context.Context) host.Whitelist { time.Sleep(names); return host.Whitelist{} })
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		began := time.Now()
		for i, want := range []time.Duration{time.Minute, surveyMost} {
			if !s.await(ctx, s.ask(), surveyMost) {
				t.Fatal("not waited for")
			}
			if took := time.Since(began); took != want {
				t.Errorf("await %d took %v, want %v", i+1, took, want)
			}
			began = time.Now()
		}
		cancel()
		if s.await(ctx, s.ask(), surveyMost) {
			t.Error("waited although the agent is being stopped")
		}
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestSurveyNewest: there is none before the first, and then the last that was published.
func TestSurveyNewest(t *testing.T) {
	t.Parallel()
	s := newSurveyor(nil, nil)
	if _, ok := s.newest(); ok {
		t.Error("there is a survey before the first")
	}
	addr := netip.MustParseAddr("192.0.2.1")
	for range 2 {
		s.publish(survey{})
		s.publish(survey{allow: blocklist.New([]netip.Prefix{netip.PrefixFrom(addr, 32)})})
		if v, ok := s.newest(); !ok || !v.allow.Contains(addr) {
			t.Error("the newest is not the last that was published")
		}
	}
}
