package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// newSupervisor returns a supervisor of an agent whose rules are active, and its log.
func newSupervisor() (*supervisor, *zapobserver.ObservedLogs) {
	core, logs := zapobserver.New(zapcore.DebugLevel)
	log := zap.New(core)
	board := status.New(status.Options{PullInterval: time.Hour, Clock: clock.System(), Log: log})
	board.Update(func(s *status.Status) { s.Enforcing = status.StateActive })
	return &supervisor{board: board, log: log}, logs
}

// TestRareFailuresAreRetriedSoon checks that a part that fails every month runs again within
// seconds, however often it has failed.
func TestRareFailuresAreRetriedSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSupervisor()
		var blind []time.Duration
		lost := time.Now()
		p := &part{code: status.CondHostWatch, run: func(ctx context.Context) error {
			blind = append(blind, time.Since(lost))
			clock.Sleep(ctx, 30*24*time.Hour)
			lost = time.Now()
			return errors.New("lost")
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 13*30*24*time.Hour)
		defer cancel()
		s.run(ctx, p)
		if len(blind) != 13 {
			t.Fatalf("ran %d times", len(blind))
		}
		for i, d := range blind {
			if d > 2*restartFirst {
				t.Errorf("after %d losses it was away for %v", i, d)
			}
		}
	})
}

// TestStopIsNoRestart checks that the end of a part when the agent stops is not logged as a
// restart.
func TestStopIsNoRestart(t *testing.T) {
	t.Parallel()
	s, logs := newSupervisor()
	ctx, cancel := context.WithCancel(t.Context())
	s.run(ctx, task("a task", func(context.Context) error {
		cancel()
		return nil
	}))
	if n := logs.Len(); n != 0 {
		t.Errorf("%d log lines: %v", n, logs.All())
	}
}

// TestUnavailablePartIsRetried checks that a part that cannot be opened is retried after a second
// and later once a minute. Its condition holds meanwhile and ends when it works. Failures in a row
// are logged once.
func TestUnavailablePartIsRetried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, logs := newSupervisor()
		var mu sync.Mutex // guards tries
		var tries []time.Time
		failC := make(chan error)
		var free atomic.Bool
		p := &part{
			code: status.CondHealth,
			open: func() error {
				mu.Lock()
				tries = append(tries, time.Now())
				mu.Unlock()
				if !free.Load() {
					return errors.New("the port is taken")
				}
				return nil
			},
			run: func(ctx context.Context) error {
				select {
				case err := <-failC:
					return err
				case <-ctx.Done():
					return nil
				}
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		s.open(p)
		doneC := make(chan struct{})
		go func() { s.run(ctx, p); close(doneC) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		message := status.Message(status.CondHealth)
		if s := s.board.Latest(); s.State != status.StateDegraded || s.Reason != message+": the port is taken" ||
			!s.Holds(status.CondHealth) {
			t.Errorf("meanwhile it is %s: %s", s.State, s.Reason)
		}
		mu.Lock()
		d := tries[1].Sub(tries[0])
		if d < restartFirst/2 || d > 2*restartFirst || len(tries) < 40 || len(tries) > 130 {
			t.Errorf("opened again after %v, and %d times in an hour", d, len(tries))
		}
		mu.Unlock()
		free.Store(true)
		time.Sleep(2 * restartMost)
		if s := s.board.Latest(); s.State != status.StateActive || s.Holds(status.CondHealth) {
			t.Errorf("then it is %s: %s", s.State, s.Reason)
		}
		failC <- errors.New("lost")
		synctest.Wait()
		if s := s.board.Latest(); s.State != status.StateDegraded || s.Reason != message+": lost" {
			t.Errorf("when it is lost it is %s: %s", s.State, s.Reason)
		}
		cancel()
		<-doneC
		if n := logs.FilterMessage(message).Len(); n != 2 {
			t.Errorf("logged %d times that it is not available, want once each time", n)
		}
	})
}

// TestWatchThatFailsAtOnce checks that the condition of a watch that ends as soon as it begins
// holds all the time.
func TestWatchThatFailsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSupervisor()
		p := &part{code: status.CondHostWatch, run: func(context.Context) error {
			time.Sleep(workingAfter / 2)
			if s := s.board.Latest(); s.State != status.StateDegraded {
				t.Errorf("it is %s", s.State)
			}
			return errors.New("no buffer space")
		}}
		s.board.SetCondition(status.CondHostWatch, errors.New("no buffer space"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s.run(ctx, p)
	})
}
