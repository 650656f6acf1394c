package enforce

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestSurveyAfterChange: a change that is reported while a survey is under way is in the survey
// after it, whichever part of the survey takes long.
func TestSurveyAfterChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var changes, seen atomic.Int64 // of the host, and those that the newest survey knows
		s := newSurveyor(
			func(context.Context) host.Whitelist {
				n := changes.Load()
				time.Sleep(200 * time.Millisecond)
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

// TestSurveyAwait: a pull waits for a survey that began with it, but for names that do not resolve
// no longer than it says; for the first survey it waits until there is one.
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

// TestDoubtIsPaced: however often answers are dropped, they bring about a survey at most every
// repliesGap, and never none.
func TestDoubtIsPaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var surveys atomic.Int64
		s := newSurveyor(
			func(context.Context) host.Whitelist { surveys.Add(1); return host.Whitelist{} },
			func(context.Context) host.Whitelist { return host.Whitelist{} })
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		s.repliesDropped()
		synctest.Wait()
		if n := surveys.Load(); n != 1 {
			t.Errorf("%d surveys at once, want 1", n)
		}
		for range 750 {
			s.repliesDropped()
			time.Sleep(repliesGap / 500)
		}
		if n := surveys.Load(); n != 2 {
			t.Errorf("%d surveys in one and a half repliesGap, want 2", n)
		}
		time.Sleep(repliesGap)
		if n := surveys.Load(); n != 3 {
			t.Errorf("%d surveys after the last doubt, want 3", n)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestIncompleteSurveyIsRepeated: what could not be found is looked for again soon, and less and
// less often.
func TestIncompleteSurveyIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var surveys, problems atomic.Int64
		problems.Store(1)
		look := func(context.Context) host.Whitelist {
			return host.Whitelist{Problems: make([]error, problems.Load())}
		}
		s := newSurveyor(func(ctx context.Context) host.Whitelist { surveys.Add(1); return look(ctx) }, look)
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		s.ask()
		for _, tt := range []struct {
			after time.Duration
			want  int64
		}{{time.Second, 1}, {surveyAgain, 2}, {2 * surveyAgain, 3}, {4 * surveyAgain, 4}} {
			time.Sleep(tt.after)
			if n := surveys.Load(); n != tt.want {
				t.Errorf("%d surveys, want %d", n, tt.want)
			}
		}
		problems.Store(0)
		time.Sleep(8*surveyAgain + time.Second)
		n := surveys.Load()
		time.Sleep(surveyEvery - time.Minute)
		if now := surveys.Load(); now > n+1 {
			t.Errorf("%d surveys although the last was complete", now-n)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestOlderSurveyDoesNotReplaceNewer: a part that took long does not put back what was known when
// it was composed.
func TestOlderSurveyDoesNotReplaceNewer(t *testing.T) {
	t.Parallel()
	s := newSurveyor(nil, nil)
	s.publish(survey{white: host.Whitelist{Number: 7}})
	s.publish(survey{white: host.Whitelist{Number: 6}})
	if v, _ := s.newest(); v.white.Number != 7 {
		t.Errorf("the newest survey is number %d, want 7", v.white.Number)
	}
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

// TestCoveredBy: rules that block less are told from those that block more.
func TestCoveredBy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		inner, outer []string
		want         bool
	}{
		{"OK nothing", nil, nil, true},
		{"OK less", []string{"192.0.2.1/32"}, []string{"192.0.2.1/32", "2001:db8::/64"}, true},
		{"OK a part", []string{"192.0.2.0/25", "2001:db8::1/128"}, []string{"192.0.2.0/24", "2001:db8::/64"}, true},
		{"bad more", []string{"192.0.2.1/32", "192.0.2.2/32"}, []string{"192.0.2.1/32"}, false},
		{"bad wider", []string{"192.0.2.0/24"}, []string{"192.0.2.0/25"}, false},
		{"bad other family", []string{"::/64"}, []string{"0.0.0.0/1"}, false},
	} {
		if got := coveredBy(listOf(tt.inner...), listOf(tt.outer...)); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

// TestGainedAddressIsASurveyOfNames: an address inside a network that is allowlisted already
// changes no rule, but the host may reach resolvers through it, so the names are resolved. Without
// any change they are not.
func TestGainedAddressIsASurveyOfNames(t *testing.T) {
	t.Parallel()
	look := func(api *url.URL) host.Whitelist {
		return host.New(host.Options{Root: t.TempDir(), APIURL: api}).Discover(t.Context())
	}
	before, after := look(nil), look(&url.URL{Scheme: "http", Host: "10.77.66.55"})
	if !newSurvey(before).allow.Equal(newSurvey(after).allow) {
		t.Fatal("the address is in no allowlisted network")
	}
	now := before
	s := newSurveyor(func(context.Context) host.Whitelist { return now }, nil)
	for i, w := range []host.Whitelist{before, before, after, after} {
		now = w
		s.runLocal(t.Context())
		asked := false
		select {
		case <-s.nameC:
			asked = true
		default:
		}
		if want := i%2 == 0; asked != want { // the first look has names, too
			t.Errorf("look %d: names are asked for: %v, want %v", i, asked, want)
		}
	}
}

// TestSurveysArePaced: a look that takes long is not repeated all the time, however much changes,
// and names are resolved only if something new was found or everything was asked for.
func TestSurveysArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks, names atomic.Int64
		s := newSurveyor(
			func(context.Context) host.Whitelist {
				looks.Add(1)
				time.Sleep(500 * time.Millisecond)
				return host.Whitelist{}
			},
			func(context.Context) host.Whitelist { names.Add(1); return host.Whitelist{} })
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		<-s.ask()
		for range 600 {
			s.changed()
			time.Sleep(100 * time.Millisecond)
		}
		if n := looks.Load(); n < 10 || n > 12 { // half a second in five and a half
			t.Errorf("%d looks in a minute, want 11", n)
		}
		if n := names.Load(); n != 1 {
			t.Errorf("names were resolved %d times, want once: nothing new was found", n)
		}
		<-s.ask()
		if n := names.Load(); n != 2 {
			t.Errorf("names were resolved %d times, want twice: they were asked for", n)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestNetworkEndsTheBackoff: when the network has come, a pull that fails once more is tried again
// soon.
func TestNetworkEndsTheBackoff(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	e := a
	for range 10 {
		e.sikker().wait.NextBackOff()
	}
	next := clock.NewAlarm(a.o.Clock, time.Hour)
	defer next.Stop()
	a.sikker().next = next
	e.sikker().offline.pulled(&sikkerapi.TemporaryError{Err: errors.New("no route to host")}, host.Whitelist{})
	a.surveys.publish(newSurvey(host.New(host.Options{Root: t.TempDir()}).Discover(t.Context())))
	a.pullIfNetwork()
	if left := next.Left(); left > clock.LeastWait {
		t.Errorf("the pull is due in %v", left)
	}
	if wait := e.sikker().wait.NextBackOff(); wait > 2*retryFirst {
		t.Errorf("the next failure is waited out for %v", wait)
	}
	next.Reset(time.Hour)
	a.pullIfNetwork()
	if next.Left() < 59*time.Minute {
		t.Error("a pull is due although nothing new was found")
	}
}
