package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestSurveyAfterChange: a change that is reported during a survey is in the next survey, whichever
// part of the survey is slow.
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

// TestSurveyAwait: a pull waits for a survey that began with it, but only for surveyMost if names
// do not resolve. It waits for the first survey without a limit.
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

// TestSurveysAfterDroppedRepliesAreLimited: however often replies are dropped, they cause a survey
// at most once in repliesGap, and at least one after the last.
func TestSurveysAfterDroppedRepliesAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var surveys atomic.Int64
		s := newSurveyor(
			func(context.Context) host.Whitelist { surveys.Add(1); return host.Whitelist{} },
			func(context.Context) host.Whitelist { return host.Whitelist{} })
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		synctest.Wait() // the first survey is not one of those that are counted here
		if n := surveys.Swap(0); n != 1 {
			t.Errorf("%d surveys at the start, want 1", n)
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
			t.Errorf("%d surveys after the last dropped reply, want 3", n)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestIncompleteSurveyIsRepeated: an incomplete survey is repeated soon, and then at growing
// intervals.
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

// TestOlderSurveyDoesNotReplaceNewer: the result of a slow survey does not replace a newer one.
func TestOlderSurveyDoesNotReplaceNewer(t *testing.T) {
	t.Parallel()
	s := newSurveyor(nil, nil)
	s.publish(survey{white: host.Whitelist{Number: 7}})
	s.publish(survey{white: host.Whitelist{Number: 6}})
	if v, _ := s.newest(); v.white.Number != 7 {
		t.Errorf("the newest survey is number %d, want 7", v.white.Number)
	}
}

// TestSurveyNewest: there is no survey before the first; then the newest is the last that was
// published.
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

// TestGainedAddressResolvesNames: an address inside an allowlisted network changes no rule, but the
// host may reach resolvers through it, so names are resolved. Without a change they are not.
func TestGainedAddressResolvesNames(t *testing.T) {
	t.Parallel()
	look := func(api *url.URL) host.Whitelist {
		h := host.New(host.Options{Root: t.TempDir(), APIURL: api})
		h.Local()
		return h.Names(t.Context())
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
		if want := i%2 == 0; asked != want { // the first survey always resolves names
			t.Errorf("survey %d: names are resolved: %v, want %v", i, asked, want)
		}
	}
}

// TestSurveysAreLimited: a slow survey is not repeated all the time, however much changes. Names
// are resolved only after a change or a request.
func TestSurveysAreLimited(t *testing.T) {
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

// TestPanicOfASurvey: the survey that panicked is made again when Run is called again.
func TestPanicOfASurvey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		surveys := 0
		s := newSurveyor(func(context.Context) host.Whitelist {
			if surveys++; surveys == 1 {
				panic("no such route")
			}
			return host.Whitelist{Number: uint64(surveys)}
		}, func(context.Context) host.Whitelist { return host.Whitelist{Number: uint64(surveys)} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.ask()
		if _, ok := errors.AsType[*panics.Error](s.Run(ctx)); !ok {
			t.Error("the panic is no error")
		}
		if err := s.Run(ctx); err != nil || surveys != 2 {
			t.Errorf("%v after %d surveys", err, surveys)
		}
	})
}

// TestIncompleteAllowlistIsACondition: problems of the newest survey are in the status, and each is
// logged once. They end with the first survey that finds everything, and the state is active
// throughout.
func TestIncompleteAllowlistIsACondition(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	look := func(problems ...error) {
		l.a.surveys.publish(survey{white: host.Whitelist{Problems: problems}})
		l.a.applySurvey(t.Context())
	}
	resolver, route := errors.New("read resolv.conf: check it"), errors.New("read routes: check them")
	look(resolver)
	look(resolver, route)
	l.wantConditions(status.CondSurvey)
	if s := l.a.o.Board.Latest(); s.State != status.StateActive ||
		!strings.Contains(fmt.Sprint(s.Conditions), "read routes") {
		t.Errorf("it is %s: %+v", s.State, s.Conditions)
	}
	if n := l.logs.FilterMessage("The allowlist is incomplete").Len(); n != 2 {
		t.Errorf("two problems are logged %d times", n)
	}
	look()
	l.wantConditions()
}
