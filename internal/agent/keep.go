package agent

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// againFirst and againMost bound the wait before a helper that failed is opened again; it
	// doubles from one failure to the next.
	againFirst, againMost = time.Second, time.Minute
	// steadyAfter is how long a helper must run until its failures of before no longer count.
	steadyAfter = 2 * againMost
	// settledAfter is how long a helper that opens nothing must run until it counts as working.
	settledAfter = 5 * time.Second
)

// errEnded is the failure of a helper that ended by itself.
var errEnded = errors.New("it ended")

// helper is a part of the agent that protection does not depend on, such as the health endpoint.
// While it is not available its condition holds, and it is tried again.
type helper struct {
	code   status.Code
	name   string       // of a task, whose code is condTask; else empty
	open   func() error // nil if run needs nothing opened
	opened bool         // open succeeded, and run did not use that up yet
	run    func(context.Context) error
	close  func() error // lets go of what open took, which run does unless it panics; nil if run needs nothing opened
}

// task makes a helper of run. It is not expected to fail, unless by a fault of the agent.
func task(name string, run func(context.Context) error) *helper {
	return &helper{code: status.CondTask, name: name, run: run}
}

// helpers are those that are opened before they run.
type helpers struct {
	health, sensor, control *helper
}

// tryOpen opens h. An error is a condition and not a reason to stop: keep tries again.
func (a *Agent) tryOpen(h *helper) {
	err := h.open()
	h.opened = err == nil
	a.board.SetCondition(h.code, err)
}

// keep opens h and runs it until ctx ends. After each failure it waits and does so again.
func (a *Agent) keep(ctx context.Context, h *helper) error {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = againFirst, againMost
	tried := h.open != nil && a.board.Latest().Holds(h.code) // it failed just now
	for ; ; tried = false {
		var err error
		if h.open != nil && !h.opened && !tried {
			a.tryOpen(h)
		}
		if h.open == nil || h.opened {
			h.opened = false
			start := time.Now()
			err = a.runHelper(ctx, h)
			if a.tellPanic(h, err) && h.close != nil {
				err = errors.Join(err, h.close())
			}
			if time.Since(start) >= steadyAfter {
				b.Reset()
			}
		}
		if err != nil && ctx.Err() == nil {
			a.note(h, err)
		}
		wait := b.NextBackOff()
		a.log.Debug("A helper is tried again", zap.String("condition", string(h.code)), zap.String("task", h.name), zap.Error(err), zap.Duration("in", wait))
		if !clock.Sleep(ctx, wait) {
			return nil
		}
	}
}

// runHelper runs h until it fails, and ends its condition when it counts as working.
func (a *Agent) runHelper(ctx context.Context, h *helper) error {
	doneC := make(chan error, 1)
	go func() { doneC <- panics.Contain(func() error { return h.run(ctx) }) }()
	var settledC <-chan time.Time
	if h.open == nil {
		timer := time.NewTimer(settledAfter)
		defer timer.Stop()
		settledC = timer.C
	}
	for {
		select {
		case <-settledC:
			a.note(h, nil)
		case err := <-doneC:
			if err == nil {
				err = errEnded
			}
			return err
		}
	}
}
