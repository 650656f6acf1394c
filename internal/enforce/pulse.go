package enforce

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// pulseEvery is how often the enforcing task is asked for a pulse, and stuckAfter how long it
	// may go without one. It may be busy that long with a large list, as with the watchdog of the
	// systemd unit.
	pulseEvery, stuckAfter = 30 * time.Second, 3 * time.Minute
)

// errStuck is an enforcing task without a pulse.
var errStuck = errors.New("it gave no sign of life for three minutes")

// heart knows whether the enforcing task goes on, for those who ask without a service manager's
// watchdog, such as a liveness probe.
type pulse struct {
	stuck atomic.Bool
}

// WatchPulse asks the enforcing task for a pulse now and then, until ctx ends. That it takes a
// value from pulseC is one.
func (e *Enforcer) WatchPulse(ctx context.Context) error {
	stuck := time.NewTimer(stuckAfter)
	defer stuck.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e.loop.pulseC <- struct{}{}:
			if e.pulse.stuck.Swap(false) {
				e.setCondition(status.CondStuck, nil)
			}
			stuck.Reset(stuckAfter)
			clock.Sleep(ctx, pulseEvery)
		case <-stuck.C:
			e.pulse.stuck.Store(true)
			e.setCondition(status.CondStuck, errStuck)
		}
	}
}

// Alive returns why the agent should be ended and started again, nil if it goes on.
func (e *Enforcer) Alive() error {
	if e.pulse.stuck.Load() {
		return errStuck
	}
	return nil
}

// PulseC returns an unbuffered channel. If Run receives from it, Run is alive.
func (e *Enforcer) PulseC() chan<- struct{} { return e.loop.pulseC }
