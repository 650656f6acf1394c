package agent

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

const (
	// surveyEvery is the longest time between two surveys. It is the net under the watches: a change that none of them
	// reports is found within it.
	surveyEvery = 3 * time.Minute
	// surveyGap is the shortest time between two surveys.
	surveyGap = time.Second
	// surveyMost is how long a pull waits for a survey that began with it. Names take ten seconds to fail.
	surveyMost = 15 * time.Second
)

// survey is one look at the host.
type survey struct {
	white host.Whitelist
	allow blocklist.Blocklist // its prefixes
}

func newSurvey(w host.Whitelist) survey {
	return survey{white: w, allow: blocklist.New(w.Prefixes())}
}

// surveyor looks at the host and keeps the newest survey. A survey has two parts: the kernel and the files take
// milliseconds, the names seconds if DNS does not work. Each part is published when it has ended, and neither waits for
// the other. A part that is asked for while it is under way begins once more after it, so that the newest survey is never
// older than the last change that was reported.
type surveyor struct {
	local func(context.Context) host.Whitelist // looks at the kernel and the files
	names func(context.Context) host.Whitelist // resolves the names, and returns all that is known

	askC  chan struct{} // capacity 1: a survey is due
	nameC chan struct{} // capacity 1: names are due
	newsC chan struct{} // capacity 1: there is a newer survey

	firstC chan struct{} // closed when there is a survey

	mu     sync.Mutex      // guards what follows
	last   *survey         // the newest; nil before the first
	next   chan struct{}   // closed when the survey that begins next has ended
	halves []chan struct{} // those of surveys that lack the names
}

func newSurveyor(local, names func(context.Context) host.Whitelist) *surveyor {
	return &surveyor{
		local: local, names: names, next: make(chan struct{}),
		askC: make(chan struct{}, 1), nameC: make(chan struct{}, 1), newsC: make(chan struct{}, 1),
		firstC: make(chan struct{}),
	}
}

// Run makes a survey whenever one is asked for, and every surveyEvery, until ctx ends. Then it returns nil.
func (s *surveyor) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return s.repeat(ctx, s.askC, surveyEvery, s.lookLocal) })
	g.Go(func() error { return s.repeat(ctx, s.nameC, 2*surveyEvery, s.lookNames) })
	return g.Wait()
}

// repeat calls look whenever askC has a value, at least every so often, and at most once every surveyGap.
func (s *surveyor) repeat(ctx context.Context, askC <-chan struct{}, every time.Duration, look func(context.Context)) error {
	net := time.NewTicker(every)
	defer net.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-askC:
		case <-net.C:
		}
		look(ctx)
		if !sleep(ctx, surveyGap) {
			return nil
		}
	}
}

// lookLocal makes the first part of a survey, and has the second follow.
func (s *surveyor) lookLocal(ctx context.Context) {
	s.mu.Lock()
	doneC := s.next
	s.next = make(chan struct{})
	s.mu.Unlock()
	s.publish(newSurvey(s.local(ctx)))
	s.mu.Lock()
	s.halves = append(s.halves, doneC)
	s.mu.Unlock()
	offer(s.nameC, struct{}{})
}

// lookNames makes the second part of the surveys that lack it.
func (s *surveyor) lookNames(ctx context.Context) {
	s.mu.Lock()
	halves := s.halves
	s.halves = nil
	s.mu.Unlock()
	s.publish(newSurvey(s.names(ctx)))
	for _, doneC := range halves {
		close(doneC)
	}
}

// publish makes v the newest survey.
func (s *surveyor) publish(v survey) {
	s.mu.Lock()
	if s.last == nil {
		close(s.firstC)
	}
	s.last = &v
	s.mu.Unlock()
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

// ask has a survey begin after this call. The channel is closed when that survey has ended.
func (s *surveyor) ask() <-chan struct{} {
	s.mu.Lock()
	doneC := s.next
	s.mu.Unlock()
	offer(s.askC, struct{}{})
	return doneC
}

// await waits for doneC at most for a time, and for the first part of the first survey as long as that takes. It reports
// whether ctx is alive.
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
