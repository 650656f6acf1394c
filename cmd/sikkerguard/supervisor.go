package main

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/sikkerapi/sikkerguard/internal/agent"
)

// supervisor is systemd, or another that speaks sd_notify(3), when it started this process; else none.
func supervisor() (agent.Supervisor, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return agent.Supervisor{}, fmt.Errorf("read WATCHDOG_USEC (unset it when no service manager set it): %w", err)
	}
	return agent.Supervisor{
		Watchdog: watchdog,
		Notify: func(state string) error {
			_, err := daemon.SdNotify(false, state) // without NOTIFY_SOCKET it does nothing
			return err
		},
	}, nil
}
