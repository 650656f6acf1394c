package agent

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// notifyAgain is how long after a message that did not get through the supervisor is told again that the agent is ready.
const notifyAgain = 2 * time.Second

// Supervisor is a service manager, such as systemd, that wants to know how the agent is. The zero value is none.
type Supervisor struct {
	Notify   func(state string) error // sends assignments as of sd_notify(3), one a line; nil for no supervisor
	Watchdog time.Duration            // after this long without a sign of life it begins the agent anew; 0 for never
}

// supervise tells the supervisor how the agent is until ctx ends, and that it is stopping when stopC is closed. A sign of
// life is given only after the enforcing task has taken a value from pulseC: what is proved is that this task goes on, not
// that the process exists.
func (a *Agent) supervise(ctx context.Context, readyC, stopC <-chan struct{}) error {
	s, changedC := a.o.Supervisor, a.board.Subscribe()
	var beatC <-chan time.Time
	if s.Watchdog > 0 {
		t := time.NewTicker(max(s.Watchdog/2, time.Millisecond)) // a ticker of nothing would panic
		defer t.Stop()
		beatC = t.C
	}
	var (
		pulseC chan<- struct{}  // nil while no sign of life is due
		owed   string           // that the agent is ready, until the supervisor was told
		againC <-chan time.Time // nil while nothing is owed
	)
	told := ""
	for {
		var state string
		select {
		case <-ctx.Done():
			return nil
		case <-stopC:
			stopC, owed = nil, ""
			state = "STOPPING=1\nSTATUS=Stopping\n"
		case <-readyC:
			owed = "READY=1\n"
		case <-againC:
		case <-beatC:
			pulseC = a.enforcer.PulseC()
			continue
		case pulseC <- struct{}{}:
			pulseC = nil
			state = "WATCHDOG=1\n"
		case <-changedC:
		}
		if line := a.board.Line(); line != told && stopC != nil {
			told = line
			state += "STATUS=" + line + "\n"
		}
		againC = nil
		if a.notify(owed + state) {
			owed = ""
		} else if owed != "" { // a supervisor that never hears of it ends the agent
			againC = time.After(notifyAgain)
		}
	}
}

// notify sends to the supervisor, says so once when it cannot, and reports whether it was told.
func (a *Agent) notify(state string) bool {
	if state == "" {
		return true
	}
	err := a.o.Supervisor.Notify(state)
	if err != nil && !a.unheard {
		a.log.Warn("The service manager cannot be told how the agent is", zap.Error(err))
	}
	a.unheard = err != nil
	return err == nil
}
