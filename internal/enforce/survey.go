package enforce

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// surveyEvery is the longest time between two surveys of the kernel and the files, and
	// namesEvery of the names. They find changes that no watch reports. Names are resolved less
	// often, because a large service returns other addresses each time.
	surveyEvery, namesEvery = 3 * time.Minute, 15 * time.Minute
	// surveyGap is the shortest time between two surveys. After a slow survey the gap is longer, up
	// to gapMost, so that a router with the routes of the whole Internet does not spend its time
	// listing them.
	surveyGap, gapMost = time.Second, 10 * time.Second
	// firstNamesMost is how long a pull that fails waits for the first attempt to resolve names, so that
	// their addresses do not look like a change of the network afterwards.
	firstNamesMost = time.Second
	// surveyMost is how long a pull waits for a survey that began with it. A lookup of a name fails
	// after ten seconds.
	surveyMost = 15 * time.Second
	// surveyAgain is how long after an incomplete survey the next one begins. It doubles up to
	// surveyEvery.
	surveyAgain = 5 * time.Second
	// repliesGap is the shortest time between two surveys that dropped replies cause. An attacker
	// can forge replies.
	repliesGap = 30 * time.Second
)

// survey is the result of one survey of the host.
type survey struct {
	white host.Whitelist
	allow blocklist.Blocklist // the prefixes of white
}

func newSurvey(w host.Whitelist) survey {
	return survey{white: w, allow: blocklist.New(w.Prefixes())}
}

// surveyor surveys the host and stores the newest survey. A survey has two parts: the kernel and
// the files take milliseconds; the names take seconds if DNS does not work. Each part is published
// when it ends, and neither waits for the other. A part that is requested while it runs begins
// again afterwards, so the newest survey is never older than the last reported change.
type surveyor struct {
	local func(context.Context) host.Whitelist // surveys the kernel and the files
	names func(context.Context) host.Whitelist // resolves the names, and returns the whole survey

	askC   chan struct{} // capacity 1: a survey is due
	nameC  chan struct{} // capacity 1: names are due
	newsC  chan struct{} // capacity 1: there is a newer survey
	firstC chan struct{} // closed after the first survey
	namedC chan struct{} // closed after the first attempt to resolve names

	named  sync.Once
	mu     sync.Mutex      // guards the fields below
	last   *survey         // the newest; nil before the first
	whole  bool            // the next survey resolves names, whatever its first part finds
	next   chan struct{}   // closed at the end of the survey that begins next
	halves []chan struct{} // those of surveys whose names are not resolved yet

	again   laterSurvey // after one that was not complete
	replies laterSurvey // after replies were dropped
}

// newSurveyor returns a surveyor. Its Run begins with a survey.
func newSurveyor(local, names func(context.Context) host.Whitelist) *surveyor {
	s := &surveyor{
		local: local, names: names, next: make(chan struct{}), firstC: make(chan struct{}), namedC: make(chan struct{}),
		askC: make(chan struct{}, 1), nameC: make(chan struct{}, 1), newsC: make(chan struct{}, 1),
	}
	s.changed()
	return s
}

// Run makes a survey when one is requested, and at every surveyEvery, until ctx ends. Then it
// returns nil. If a survey panics, Run returns an error.
func (s *surveyor) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return panics.Contain(func() error { return s.repeat(ctx, s.askC, surveyEvery, gapMost, s.runLocal) })
	})
	g.Go(func() error {
		return panics.Contain(func() error { return s.repeat(ctx, s.nameC, namesEvery, surveyGap, s.runNames) })
	})
	err := g.Wait()
	if err != nil {
		s.ask() // the survey that panicked is still due
	}
	return err
}

// repeat calls survey when askC has a value, and at every interval. Between two calls it waits ten
// times as long as the first took, but at least surveyGap and at most most.
func (s *surveyor) repeat(
	ctx context.Context, askC <-chan struct{}, every, most time.Duration, look func(context.Context),
) error {
	net := time.NewTicker(every)
	defer net.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-askC:
		case <-net.C:
		}
		began := time.Now()
		look(ctx)
		if !clock.Sleep(ctx, min(max(surveyGap, 10*time.Since(began)), most)) {
			return nil
		}
	}
}

// runLocal makes the first part of a survey. The second part follows if the first finds a change,
// or if it was requested.
func (s *surveyor) runLocal(ctx context.Context) {
	s.mu.Lock()
	doneC, whole, before := s.next, s.whole, s.last
	s.next, s.whole = make(chan struct{}), false
	s.mu.Unlock()
	v := newSurvey(s.local(ctx))
	s.publish(v)
	if !whole && before != nil && before.allow.Equal(v.allow) && !v.white.Gained(before.white) {
		close(doneC)
		s.retryIncomplete(v)
		return
	}
	s.mu.Lock()
	s.halves = append(s.halves, doneC)
	s.mu.Unlock()
	offer(s.nameC, struct{}{})
}

// runNames makes the second part of the surveys that lack it.
func (s *surveyor) runNames(ctx context.Context) {
	s.mu.Lock()
	halves := s.halves
	s.halves = nil
	s.mu.Unlock()
	v := newSurvey(s.names(ctx))
	s.publish(v)
	s.named.Do(func() { close(s.namedC) })
	for _, doneC := range halves {
		close(doneC)
	}
	s.retryIncomplete(v)
}

// laterSurvey requests one survey after a wait.
type laterSurvey struct {
	mu    sync.Mutex
	timer *time.Timer   // nil while no survey is due
	wait  time.Duration // the last wait
	last  time.Time     // when a survey was last requested
}

// start calls request after wait. The caller holds mu, and timer is nil.
func (l *laterSurvey) start(wait time.Duration, request func() <-chan struct{}) {
	l.wait = wait
	l.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		l.timer, l.last = nil, time.Now()
		l.mu.Unlock()
		request()
	})
}

// retryIncomplete has an incomplete survey made again soon.
func (s *surveyor) retryIncomplete(v survey) {
	l := &s.again
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(v.white.Problems) == 0 {
		l.wait = 0
		return
	}
	if l.timer == nil {
		l.start(min(max(surveyAgain, 2*l.wait), surveyEvery), s.ask)
	}
}

// publish makes v the newest survey, unless a newer part has been published already.
func (s *surveyor) publish(v survey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.last == nil:
		close(s.firstC)
	case v.white.Number < s.last.white.Number:
		return
	}
	s.last = &v
	offer(s.newsC, struct{}{})
}

// newest returns the newest survey; false before the first.
func (s *surveyor) newest() (survey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return survey{}, false
	}
	return *s.last, true
}

// first waits until there is a survey, and at most firstNamesMost longer until names were
// resolved. It returns the newest host, or the zero Whitelist if ctx ends before the first survey.
func (s *surveyor) first(ctx context.Context) host.Whitelist {
	select {
	case <-ctx.Done():
	case <-s.firstC:
		timer := time.NewTimer(firstNamesMost)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.namedC:
		}
	}
	v, _ := s.newest()
	return v.white
}

// ask has a whole survey begin after this call. The channel is closed when that survey ends.
func (s *surveyor) ask() <-chan struct{} {
	s.mu.Lock()
	doneC := s.next
	s.whole = true
	s.mu.Unlock()
	offer(s.askC, struct{}{})
	return doneC
}

// changed has a survey begin after a change of the host. Names are resolved only if the survey
// finds a difference.
func (s *surveyor) changed() { offer(s.askC, struct{}{}) }

// repliesDropped has a whole survey made because replies were dropped that this host may need, at
// most once in repliesGap.
func (s *surveyor) repliesDropped() {
	l := &s.replies
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil {
		l.start(max(0, repliesGap-time.Since(l.last)), s.ask)
	}
}

// await waits for doneC, but not longer than most unless the first part of the first survey takes
// longer. It reports whether ctx is alive.
func (s *surveyor) await(ctx context.Context, doneC <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-doneC:
		return true
	case <-timer.C:
	}
	return s.awaitFirst(ctx)
}

// awaitFirst waits for the first part of the first survey. It reports whether ctx is alive.
func (s *surveyor) awaitFirst(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-s.firstC:
		return ctx.Err() == nil
	}
}

// WatchHost has the host surveyed after each change of addresses and routes, until ctx ends.
func (e *Enforcer) WatchHost(ctx context.Context) error {
	return e.o.Host.Watch(ctx, e.surveys.changed)
}

// WatchFiles has the host surveyed after each change of its resolver files, until ctx ends.
func (e *Enforcer) WatchFiles(ctx context.Context) error {
	return e.o.Host.WatchFiles(ctx, e.surveys.changed)
}

// Survey surveys the host whenever that is due, until ctx ends.
func (e *Enforcer) Survey(ctx context.Context) error { return e.surveys.Run(ctx) }

// SurveyNow requests a survey, for example after the API was not reached.
func (e *Enforcer) SurveyNow() { e.surveys.ask() }

// rebaseMost is how long a trial waits for names to resolve. A resolver that works answers within
// milliseconds.
const rebaseMost = 3 * time.Second

// surveyKnown makes the first part of a survey at once, concurrently with Run. It contains the
// addresses of names that are already known.
func (s *surveyor) surveyKnown(ctx context.Context) survey {
	v := newSurvey(s.local(ctx))
	s.publish(v)
	return v
}

// surveyLocal makes the first part of a survey at once. If that finds a change, Run resolves names.
func (s *surveyor) surveyLocal(ctx context.Context) {
	before, _ := s.newest()
	v := s.surveyKnown(ctx)
	if !before.allow.Equal(v.allow) || v.white.Gained(before.white) {
		offer(s.nameC, struct{}{}) // the next survey of Run may find no change
	}
}

// surveyNames makes the second part of a survey at once, and waits for it, but not longer than
// rebaseMost.
func (s *surveyor) surveyNames(ctx context.Context) {
	doneC := make(chan struct{})
	go func() { // it ends when the lookups fail at the latest
		defer close(doneC)
		_ = panics.Contain(func() error { // Run returns the same panic
			s.publish(newSurvey(s.names(ctx)))
			return nil
		})
	}()
	timer := time.NewTimer(rebaseMost)
	defer timer.Stop()
	select {
	case <-doneC:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// publishSurroundings sets conditions if this host's network keeps the rules from covering all
// traffic that an operator may expect. The agent starts nevertheless.
func (e *Enforcer) publishSurroundings() {
	contained, bridged := e.o.Host.Surroundings()
	e.setCondition(status.CondNamespace, contained)
	e.setCondition(status.CondBridged, bridged)
}
