// Package lock keeps a second agent from the rules of the first. A lock is an abstract UNIX
// address. The kernel keeps one name space of them for each network namespace, as it does rules and
// sets, shares it between containers that share the network, and frees the name when the last copy
// of its socket is closed.
//
// Any local user may bind such a name first, and that must not keep the agent from protecting. Then
// there is no lock.
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
	// patience is how long Claim waits for a name that is taken. A process that is being started
	// has copies of its parent's sockets until it becomes another program: the lock of an agent
	// that was killed may still be taken for a moment.
	patience = time.Second
	pause    = 20 * time.Millisecond
)

// Gap is what it means to work without a lock, for the operator.
const Gap = "another user's program holds the name of this agent's lock: a second agent on this host would not be noticed"

// HeldError means that another agent has the lock.
type HeldError struct{ PID int32 }

func (e *HeldError) Error() string { return fmt.Sprintf("its process ID is %d", e.PID) }

// Lock is held until it is closed, or its process ends.
type Lock struct {
	listener net.Listener // nil: a process without rights holds the name
}

// Claim takes the lock of this name in the network namespace of the calling thread. The error is a
// *HeldError if the name is held by a process that may be an agent, see agent. If another user holds
// it, the agent works without a lock, rather than not at all, and Real reports false.
func Claim(name string) (*Lock, error) {
	for start := time.Now(); ; time.Sleep(pause) {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", "@"+name)
		if err == nil {
			return &Lock{listener: l}, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("take the lock @%s: %w", name, err)
		}
		if time.Since(start) < patience {
			continue
		}
		// Asked once only: the holder accepts no connections, and the kernel queues them.
		if pid, uid, ok := holder(name); ok && agent(pid, uid) {
			return nil, &HeldError{PID: pid}
		}
		return &Lock{}, nil
	}
}

// The users that systemd makes for the run of a unit with DynamicUser, as ours is. No person has one.
const dynamicFirst, dynamicLast = 61184, 65519

// agent reports whether a process of this user may be an agent: root, the user of this process, or
// one that systemd made, unless the process is seen to have no right to change the firewall.
func agent(pid int32, uid uint32) bool {
	if uid == 0 || int(uid) == os.Geteuid() {
		return true
	}
	if uid < dynamicFirst || uid > dynamicLast {
		return false
	}
	netAdmin, known := hasNetAdmin(pid)
	return netAdmin || !known
}

// hasNetAdmin reports whether a process has CAP_NET_ADMIN. It is not known of one in another PID
// namespace.
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

// Real reports whether there is a lock, so that a second agent cannot claim it.
func (l *Lock) Real() bool { return l != nil && l.listener != nil }

// Close frees the lock. Closing none, or a closed one, does nothing.
func (l *Lock) Close() error {
	if !l.Real() {
		return nil
	}
	if err := l.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("release the lock: %w", err)
	}
	return nil
}

// holder returns the process that holds the lock. It is not ok if none listens at the name.
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
