package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestLossesFarApart: a helper that is lost every month is opened again within seconds, however
// often that was.
func TestLossesFarApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := logged(t)
		var blind []time.Duration
		lost := time.Now()
		h := &helper{code: status.CondHostWatch, run: func(ctx context.Context) error {
			blind = append(blind, time.Since(lost))
			clock.Sleep(ctx, 30*24*time.Hour)
			lost = time.Now()
			return errors.New("lost")
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 13*30*24*time.Hour)
		defer cancel()
		if err := a.keep(ctx, h); err != nil {
			t.Error(err)
		}
		if len(blind) != 13 {
			t.Fatalf("ran %d times", len(blind))
		}
		for i, d := range blind {
			if d > 2*againFirst {
				t.Errorf("after %d losses it was away for %v", i, d)
			}
		}
	})
}

// TestHelperThatCannotBeHad: it is tried again after a second and later once a minute; its
// condition holds all the while, and ends when it works. Losses in a row count as one trouble.
func TestHelperThatCannotBeHad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, logs := logged(t)
		a.board.Update(func(s *status.Status) { s.Enforcing = status.StateActive })
		var mu sync.Mutex // holds tries
		var tries []time.Time
		failC := make(chan error)
		var free atomic.Bool
		h := &helper{
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
		a.tryOpen(h)
		doneC := make(chan error, 1)
		go func() { doneC <- a.keep(ctx, h) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := a.board.Latest(); s.State != status.StateDegraded || s.Reason != status.Message(status.CondHealth)+": the port is taken" || !s.Holds(status.CondHealth) {
			t.Errorf("meanwhile it is %s: %s", s.State, s.Reason)
		}
		mu.Lock()
		if d := tries[1].Sub(tries[0]); d > 2*againFirst || len(tries) < 40 || len(tries) > 130 {
			t.Errorf("tried again after %v, and %d times in an hour", d, len(tries))
		}
		mu.Unlock()
		free.Store(true)
		time.Sleep(2 * againMost)
		if s := a.board.Latest(); s.State != status.StateActive || s.Holds(status.CondHealth) {
			t.Errorf("then it is %s: %s", s.State, s.Reason)
		}
		failC <- errors.New("lost")
		synctest.Wait()
		if s := a.board.Latest(); s.State != status.StateDegraded || s.Reason != status.Message(status.CondHealth)+": lost" {
			t.Errorf("when it is lost it is %s: %s", s.State, s.Reason)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
		if n := logs.FilterMessage(status.Message(status.CondHealth)).Len(); n != 2 {
			t.Errorf("logged %d times that it is not available, want once each time", n)
		}
	})
}

// TestWatchThatFailsAtOnce: a watch that ends as soon as it begins is never said to work.
func TestWatchThatFailsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := logged(t)
		a.board.Update(func(s *status.Status) { s.Enforcing = status.StateActive })
		h := &helper{code: status.CondHostWatch, run: func(context.Context) error {
			time.Sleep(settledAfter / 2)
			if s := a.board.Latest(); s.State != status.StateDegraded {
				t.Errorf("it is %s", s.State)
			}
			return errors.New("no buffer space")
		}}
		a.board.SetCondition(status.CondHostWatch, errors.New("no buffer space"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := a.keep(ctx, h); err != nil {
			t.Error(err)
		}
	})
}
