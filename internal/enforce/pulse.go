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
	// pulseEvery is how often WatchPulse asks Run for a pulse, and stuckAfter how long Run may give
	// none. Run may be busy that long with a large list; the watchdog of the systemd unit has the
	// same limit.
	pulseEvery, stuckAfter = 30 * time.Second, 3 * time.Minute
)

// errStuck is the condition of a Run that gives no pulse.
var errStuck = errors.New("no pulse for three minutes")

// pulse records whether Run gives pulses. It serves liveness probes of hosts without a service
// manager's watchdog.
type pulse struct {
	stuck atomic.Bool
}

// WatchPulse asks Run for a pulse at every pulseEvery, until ctx ends. A receive from pulseC is a
// pulse.
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

// Alive returns nil while Run gives pulses, or an error if the process should be restarted.
func (e *Enforcer) Alive() error {
	if e.pulse.stuck.Load() {
		return errStuck
	}
	return nil
}

// PulseC returns an unbuffered channel. A send succeeds only while Run is alive.
func (e *Enforcer) PulseC() chan<- struct{} { return e.loop.pulseC }
