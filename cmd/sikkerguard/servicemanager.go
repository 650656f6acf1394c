package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/sikkerapi/sikkerguard/internal/agent"
)

// notifyTimeout is the longest wait for a service manager that does not read its socket.
const notifyTimeout = time.Second

// serviceManager returns the service manager that started this process: systemd, or another that
// supports sd_notify(3), or none. An error means that its watchdog cannot be served.
func serviceManager() (agent.ServiceManager, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		err = fmt.Errorf("read WATCHDOG_USEC (unset it if no service manager set it): %w", err)
	}
	s := agent.ServiceManager{Watchdog: watchdog}
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		s.Notify = func(state string) error { return notify(path, state) }
	}
	return s, err
}

// notify sends state to the socket at path. SdNotify of the library would wait for ever while the
// socket is full.
func notify(path, state string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	err = c.SetWriteDeadline(time.Now().Add(notifyTimeout))
	if err == nil {
		_, err = c.Write([]byte(state))
	}
	return errors.Join(err, c.Close())
}
