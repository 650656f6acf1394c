package enforce

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestHangingLoopIsReported: three minutes without a pulse of Run are a condition and a reason to
// restart. Both end when Run continues.
func TestHangingLoopIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := newEnforcer(t)
		a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
		ctx, cancel := context.WithCancel(t.Context())
		doneC, goOnC := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(doneC)
			_ = a.WatchPulse(ctx)
		}()
		go func() {
			for range 100 { // fifty minutes
				<-a.loop.pulseC
			}
			<-goOnC
			<-a.loop.pulseC
		}()
		time.Sleep(49 * time.Minute)
		if err := a.Alive(); err != nil || a.o.Board.Latest().State != status.StateActive {
			t.Errorf("while it goes on: %v, %s", err, a.o.Board.Latest().State)
		}
		time.Sleep(time.Minute + stuckAfter)
		if err := a.Alive(); err == nil || !a.o.Board.Latest().Holds(status.CondStuck) {
			t.Errorf("when it hangs: %v, %s", err, a.o.Board.Latest().State)
		}
		time.Sleep(time.Hour)
		close(goOnC)
		synctest.Wait()
		if err := a.Alive(); err != nil || a.o.Board.Latest().Holds(status.CondStuck) {
			t.Errorf("when it goes on again: %v, %s", err, a.o.Board.Latest().State)
		}
		cancel()
		<-doneC
	})
}

// TestHangingKernelIsReported: the health is answered in time, and names the kernel that does not
// answer. The status has the last known counters.
func TestHangingKernelIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := newEnforcer(t)
		k := &mute{hangC: make(chan struct{})}
		a.backend.fw = k
		a.setStatus(func(s *status.Status) { s.Enforcing, s.PulledAt = status.StateActive, a.o.Clock.Now() })
		start := time.Now()
		ok, reason := a.o.Board.Health()
		if ok || reason != "unprotected: "+status.Message(status.CondSilent) || time.Since(start) > 3*time.Second {
			t.Errorf("health: %v %q after %v", ok, reason, time.Since(start))
		}
		start = time.Now()
		if s := a.o.Board.Status(); !s.Holds(status.CondSilent) || time.Since(start) > 6*time.Second {
			t.Errorf("status: %+v after %v", s.Conditions, time.Since(start))
		}
		close(k.hangC)
		synctest.Wait()
		if ok, reason := a.o.Board.Health(); !ok {
			t.Errorf("when the kernel answers again: %q", reason)
		}
	})
}

// mute is a kernel that answers no question until hangC is closed.
type mute struct {
	kernel

	hangC chan struct{}
}

func (m *mute) Present() error {
	<-m.hangC
	return nil
}

func (m *mute) Counters() (ruleset.Counters, error) {
	<-m.hangC
	return ruleset.Counters{Packets4: 3}, nil
}
