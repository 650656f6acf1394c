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
	// namesEvery of the names. They are the net under the watches: a change that none of them
	// reports is found within it. A large service answers with other addresses each time, so names
	// are asked for less often.
	surveyEvery, namesEvery = 3 * time.Minute, 15 * time.Minute
	// surveyGap is the shortest time between two surveys. After one that took long it is longer, up
	// to gapMost: a router with the whole Internet's routes must not spend its time on listing
	// them.
	surveyGap, gapMost = time.Second, 10 * time.Second
	// surveyMost is how long a pull waits for a survey that began with it. Names take ten seconds
	// to fail.
	surveyMost = 15 * time.Second
	// surveyAgain is how long after a survey that was not complete the next one begins. It doubles
	// up to surveyEvery.
	surveyAgain = 5 * time.Second
	// repliesGap is the shortest time between two surveys that dropped answers bring about: anyone
	// can forge those.
	repliesGap = 30 * time.Second
)

// survey is one look at the host.
type survey struct {
	white host.Whitelist
	allow blocklist.Blocklist // its prefixes
}

func newSurvey(w host.Whitelist) survey {
	return survey{white: w, allow: blocklist.New(w.Prefixes())}
}

// surveyor looks at the host and keeps the newest survey. A survey has two parts: the kernel and
// the files take milliseconds, the names seconds if DNS does not work. Each part is published when
// it has ended, and neither waits for the other. A part that is asked for while it is under way
// begins once more after it, so that the newest survey is never older than the last change that was
// reported.
type surveyor struct {
	local func(context.Context) host.Whitelist // looks at the kernel and the files
	names func(context.Context) host.Whitelist // resolves the names, and returns all that is known

	askC   chan struct{} // capacity 1: a survey is due
	nameC  chan struct{} // capacity 1: names are due
	newsC  chan struct{} // capacity 1: there is a newer survey
	firstC chan struct{} // closed when there is a survey
	namedC chan struct{} // closed when names were resolved once, or could not be

	named  sync.Once
	mu     sync.Mutex      // guards the fields below
	last   *survey         // the newest; nil before the first
	whole  bool            // the next survey has names, whatever its first part finds
	next   chan struct{}   // closed when the survey that begins next has ended
	halves []chan struct{} // those of surveys that lack the names

	again        *time.Timer   // makes a survey after one that was not complete; nil while none is due
	againIn      time.Duration // how long after it
	repliesAt    time.Time     // when dropped answers brought about a survey last
	repliesTimer *time.Timer   // makes the next such survey; nil while none is due
}

func newSurveyor(local, names func(context.Context) host.Whitelist) *surveyor {
	return &surveyor{
		local: local, names: names, next: make(chan struct{}), firstC: make(chan struct{}), namedC: make(chan struct{}),
		askC: make(chan struct{}, 1), nameC: make(chan struct{}, 1), newsC: make(chan struct{}, 1),
	}
}

// Run makes a survey whenever one is asked for, and every surveyEvery, until ctx ends. Then it
// returns nil. A panic of one ends it with an error.
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
		s.ask() // the survey that a panic ended is still due
	}
	return err
}

// repeat calls look whenever askC has a value and at least every so often. Between two calls it
// waits ten times as long as the first took, but from surveyGap to most.
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

// runLocal makes the first part of a survey, and has the second follow if it found something new
// or was asked for.
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

// complete has a survey that is not complete made again soon.
func (s *surveyor) retryIncomplete(v survey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(v.white.Problems) == 0 {
		s.againIn = 0
		return
	}
	if s.again == nil {
		s.againIn = min(max(surveyAgain, 2*s.againIn), surveyEvery)
		s.again = time.AfterFunc(s.againIn, func() {
			s.mu.Lock()
			s.again = nil
			s.mu.Unlock()
			s.ask()
		})
	}
}

// publish makes v the newest survey, unless a part of another that ended meanwhile is newer.
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

// newest returns the newest survey, and false before the first.
func (s *surveyor) newest() (survey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return survey{}, false
	}
	return *s.last, true
}

// first waits until there is a survey, and briefly until names were resolved once. It returns the
// newest host; the zero Whitelist if ctx ends.
func (s *surveyor) first(ctx context.Context) host.Whitelist {
	select {
	case <-ctx.Done():
	case <-s.firstC:
		timer := time.NewTimer(firstSurveyMost)
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

// ask has a survey of everything begin after this call. The channel is closed when that survey has
// ended.
func (s *surveyor) ask() <-chan struct{} {
	s.mu.Lock()
	doneC := s.next
	s.whole = true
	s.mu.Unlock()
	offer(s.askC, struct{}{})
	return doneC
}

// changed has a survey begin after a change of the host. Names are resolved if the change matters.
func (s *surveyor) changed() { offer(s.askC, struct{}{}) }

// doubt has a survey of everything made because answers that this host may need were dropped, at
// most one in repliesGap.
func (s *surveyor) repliesDropped() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repliesTimer != nil {
		return
	}
	s.repliesTimer = time.AfterFunc(max(0, repliesGap-time.Since(s.repliesAt)), func() {
		s.mu.Lock()
		s.repliesAt, s.repliesTimer = time.Now(), nil
		s.mu.Unlock()
		s.ask()
	})
}

// await waits for doneC at most for a time, and for the first part of the first survey as long as
// that takes. It reports whether ctx is alive.
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
	select {
	case <-ctx.Done():
		return false
	case <-s.firstC:
		return true
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

// SurveyNow has the host surveyed soon, as when the API was not reached.
func (e *Enforcer) SurveyNow() { e.surveys.ask() }

// rebaseMost is how long a list that is accused may wait for the addresses of names. A resolver that
// answers does so within milliseconds.
const rebaseMost = 3 * time.Second

// surveyLocal makes the first part of a survey at once, beside those that Run makes.
func (s *surveyor) surveyLocal(ctx context.Context) {
	before, _ := s.newest()
	v := newSurvey(s.local(ctx))
	s.publish(v)
	if !before.allow.Equal(v.allow) || v.white.Gained(before.white) {
		offer(s.nameC, struct{}{}) // the survey that Run makes next may find no change
	}
}

// surveyNames makes the second part of a survey at once, and waits for it at most for rebaseMost.
func (s *surveyor) surveyNames(ctx context.Context) {
	doneC := make(chan struct{})
	go func() { // it ends within the time that names take to fail
		defer close(doneC)
		_ = panics.Contain(func() error { s.publish(newSurvey(s.names(ctx))); return nil }) // Run tells of it
	}()
	timer := time.NewTimer(rebaseMost)
	defer timer.Stop()
	select {
	case <-doneC:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// publishSurroundings makes conditions of what about this host keeps the list from covering all that an
// operator may expect. Neither is a reason not to start.
func (e *Enforcer) publishSurroundings() {
	contained, bridged := e.o.Host.Surroundings()
	e.setCondition(status.CondNamespace, contained)
	e.setCondition(status.CondBridged, bridged)
}
