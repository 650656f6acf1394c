package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/plain"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// restartFirst and restartMost bound the wait before a part that failed is restarted. The wait
	// doubles from one failure to the next.
	restartFirst, restartMost = time.Second, time.Minute
	// steadyAfter is how long a part must run until its earlier failures no longer count.
	steadyAfter = 2 * restartMost
	// workingAfter is how long a part that opens nothing must run until it counts as working.
	workingAfter = 5 * time.Second
)

// errEnded is the failure of a part whose run returned nil before its context ended.
var errEnded = errors.New("it ended")

// part is one of the things that the agent runs until it stops, such as the health endpoint. While
// it is not available the condition of its code holds.
type part struct {
	code  status.Code
	name  string       // of a part whose code is CondTask, which such parts share; else empty
	open  func() error // nil if run needs nothing opened
	run   func(context.Context) error
	close func() error // releases the things that open took if run panicked; nil if there are none

	opened  bool // open succeeded, and run has not been called since
	refused bool // open failed, and that has not been waited for yet
}

// task returns a part that opens nothing and fails only through a fault of the agent.
func task(name string, run func(context.Context) error) *part {
	return &part{code: status.CondTask, name: name, run: run}
}

// label returns the name of p in the log.
func (p *part) label() string { return cmp.Or(p.name, string(p.code)) }

// supervisor runs parts and restarts those that fail. It publishes their conditions. Its methods
// may be called by any goroutine, each part by one at a time.
type supervisor struct {
	board *status.Board
	log   *zap.Logger

	mu     sync.Mutex       // guards failed; held while the condition is set, so that the last error wins
	failed map[string]error // by the name of a part that shares CondTask and failed
}

// open opens p. An error is published as a condition; run retries later.
func (s *supervisor) open(p *part) {
	err := p.open()
	p.opened, p.refused = err == nil, err != nil
	s.board.SetCondition(p.code, err)
}

// run opens p and runs it until ctx ends. After each failure it waits and does so again.
func (s *supervisor) run(ctx context.Context, p *part) {
	waits := clock.NewBackoff(restartFirst, restartMost)
	for {
		if p.open != nil && !p.opened && !p.refused {
			s.open(p)
		}
		p.refused = false
		var err error
		if p.open == nil || p.opened {
			p.opened = false
			start := time.Now()
			err = s.runOnce(ctx, p)
			if s.logPanic(p.label(), err) && p.close != nil {
				err = errors.Join(err, p.close())
			}
			if time.Since(start) >= steadyAfter {
				waits.Reset()
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.setFailure(p, err)
		}
		wait := waits.NextBackOff()
		s.log.Debug("A part of the agent is restarted",
			zap.String("part", p.label()), zap.Error(err), zap.Duration("in", wait))
		if !clock.Sleep(ctx, wait) {
			return
		}
	}
}

// runOnce runs p until it fails, and returns the failure. It ends the condition of p once p counts
// as working.
func (s *supervisor) runOnce(ctx context.Context, p *part) error {
	doneC := make(chan error, 1)
	go func() { doneC <- panics.Contain(func() error { return p.run(ctx) }) }()
	var workingC <-chan time.Time
	if p.open == nil {
		timer := time.NewTimer(workingAfter)
		defer timer.Stop()
		workingC = timer.C
	}
	for {
		select {
		case <-workingC:
			s.setFailure(p, nil)
		case err := <-doneC:
			if err == nil {
				err = errEnded
			}
			return err
		}
	}
}

// setFailure makes the condition of p hold with err as its detail, or ends it if err is nil. The
// condition that several parts share ends when none of them fails, and its detail names each that
// does.
func (s *supervisor) setFailure(p *part, err error) {
	if p.name == "" {
		s.board.SetCondition(p.code, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = map[string]error{}
	}
	if s.failed[p.name] = err; err == nil {
		delete(s.failed, p.name)
	}
	var detail error
	for _, name := range slices.Sorted(maps.Keys(s.failed)) {
		detail = errors.Join(detail, fmt.Errorf("%s: %w", name, s.failed[name]))
	}
	if detail != nil {
		detail = errors.New(plain.Joined(detail.Error()))
	}
	s.board.SetCondition(p.code, detail)
}

// logPanic reports whether err is a panic of the part of that name, and logs its stack if it is. A
// logger for development panics then, so that no test overlooks it.
func (s *supervisor) logPanic(part string, err error) bool {
	p, ok := errors.AsType[*panics.Error](err)
	if ok {
		s.log.DPanic("A part of SikkerGuard panicked: please report this line",
			zap.String("part", part), zap.Error(err), zap.String("stack", p.Stack))
	}
	return ok
}
