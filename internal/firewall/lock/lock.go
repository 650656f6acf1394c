// Package lock prevents a second agent from changing the rules of the first. A lock is an abstract
// UNIX address. The kernel keeps one name space of these addresses for each network namespace, as
// it does for rules and sets. Containers that share a network namespace share it. The kernel frees
// the name when the last copy of its socket is closed.
//
// Any local user may bind such a name first, and that must not keep the agent from protecting the
// host. The agent then works without a lock.
package lock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// timeout is the time that Claim waits for a name to become free. A process between fork and
	// exec has copies of its parent's sockets, so the lock of a killed agent may be held for a
	// moment longer.
	timeout      = time.Second
	pollInterval = 20 * time.Millisecond
)

// Gap explains to the operator the consequence of working without a lock.
const Gap = "a program of another user holds the name of this agent's lock: " +
	"a second agent on this host would not be noticed"

// HeldError means that another agent holds the lock.
type HeldError struct{ PID int32 }

func (e *HeldError) Error() string { return fmt.Sprintf("its process ID is %d", e.PID) }

// Lock is held until it is closed or its process ends.
type Lock struct {
	listener net.Listener // nil: a process that cannot be an agent holds the name
}

// Claim takes the lock of this name in the network namespace of the calling thread. The error is
// taken and a *HeldError if a process that may be an agent holds the name (see mayBeAgent). If any
// other process holds it, the agent works without a lock rather than not at all, and Real reports
// false.
func Claim(name string, taken error) (*Lock, error) {
	for start := time.Now(); ; time.Sleep(pollInterval) {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", "@"+name)
		if err == nil {
			return &Lock{listener: l}, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("take the lock @%s: %w", name, err)
		}
		if time.Since(start) < timeout {
			continue
		}
		// Connect to the holder once only: it accepts no connections, so the kernel queues them.
		if pid, uid, ok := holder(name); ok && mayBeAgent(pid, uid) {
			return nil, fmt.Errorf("%w (%w)", taken, &HeldError{PID: pid})
		}
		return &Lock{}, nil
	}
}

// systemd creates users in this range for units with DynamicUser, as the agent's unit is. No person
// has one of these user IDs.
const dynamicFirst, dynamicLast = 61184, 65519

// mayBeAgent reports whether a process of this user may be an agent. It may if the user is root or
// the user of this process, or if systemd created the user and the process is not known to lack
// CAP_NET_ADMIN.
func mayBeAgent(pid int32, uid uint32) bool {
	if uid == 0 || int(uid) == os.Geteuid() {
		return true
	}
	if uid < dynamicFirst || uid > dynamicLast {
		return false
	}
	netAdmin, known := hasNetAdmin(pid)
	return netAdmin || !known
}

// hasNetAdmin reports whether a process has CAP_NET_ADMIN. This is not known of a process in
// another PID namespace.
func hasNetAdmin(pid int32) (has, known bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, false
	}
	_, after, _ := strings.Cut(string(status), "\nCapEff:")
	line, _, _ := strings.Cut(after, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return set&(1<<unix.CAP_NET_ADMIN) != 0, err == nil
}

// Real reports whether the lock is held, so that a second agent cannot claim it.
func (l *Lock) Real() bool { return l != nil && l.listener != nil }

// Close frees the lock. It does nothing if there is no lock or if it is closed.
func (l *Lock) Close() error {
	if !l.Real() {
		return nil
	}
	if err := l.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("release the lock: %w", err)
	}
	return nil
}

// holder returns the process that listens at the name. ok is false if there is none.
func holder(name string) (pid int32, uid uint32, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", "@"+name)
	if err != nil {
		return 0, 0, false
	}
	defer func() { _ = c.Close() }() // nothing was sent
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid, uid, ok = cred.Pid, cred.Uid, true
		}
	})
	return pid, uid, ok && err == nil
}
