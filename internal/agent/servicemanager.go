package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// notifyRetry is the wait after a message that did not get through before readiness is sent again.
const notifyRetry = 2 * time.Second

// ServiceManager is the program that started the agent, such as systemd, and that wants to know its
// state. The zero value is none.
type ServiceManager struct {
	Notify   func(state string) error // sends assignments as in sd_notify(3), one a line; nil for none
	Watchdog time.Duration            // the manager restarts the agent after this long without a ping; 0 for never
}

// notifier sends the state of the agent to the service manager.
type notifier struct {
	manager ServiceManager
	board   *status.Board
	log     *zap.Logger

	readyC <-chan struct{} // closed once the agent is ready
	pulseC chan<- struct{} // the enforcement loop receives from it while it is alive
	stopC  <-chan struct{} // closed when the agent begins to stop

	failing bool // the last message did not get through
}

// Run sends each change of the state until ctx ends. A watchdog ping is sent only after the
// enforcement loop has received from pulseC: it proves that the loop is alive, not only the
// process.
func (n *notifier) Run(ctx context.Context) error {
	changedC := n.board.Subscribe()
	var pingC <-chan time.Time
	if n.manager.Watchdog > 0 {
		t := time.NewTicker(max(n.manager.Watchdog/2, time.Millisecond)) // a ticker panics at 0
		defer t.Stop()
		pingC = t.C
	}
	var (
		stopC  = n.stopC
		readyC = n.readyC
		pulseC chan<- struct{}  // nil while no ping is due
		ready  string           // the message of readiness, until it gets through
		retryC <-chan time.Time // nil unless ready waits
		sent   string           // the last status line
	)
	for {
		var state string
		select {
		case <-ctx.Done():
			return nil
		case <-stopC:
			stopC, ready = nil, ""
			state = "STOPPING=1\nSTATUS=Stopping\n"
		case <-readyC:
			readyC = nil
			ready = "READY=1\n"
		case <-retryC:
		case <-pingC:
			pulseC = n.pulseC
			continue
		case pulseC <- struct{}{}:
			pulseC = nil
			state = "WATCHDOG=1\n"
		case <-changedC:
		}
		if line := n.board.Line(); line != sent && stopC != nil {
			sent = line
			state += "STATUS=" + line + "\n"
		}
		retryC = nil
		if n.send(ready + state) {
			ready = ""
		} else if ready != "" { // a manager that never receives it ends the agent
			retryC = time.After(notifyRetry)
		}
	}
}

// send sends state to the service manager and reports whether it got through. It logs the first
// failure of a series.
func (n *notifier) send(state string) bool {
	if state == "" {
		return true
	}
	err := n.manager.Notify(state)
	if err != nil && !n.failing {
		n.log.Warn("The service manager does not receive the state of the agent", zap.Error(err))
	}
	n.failing = err != nil
	return err == nil
}
