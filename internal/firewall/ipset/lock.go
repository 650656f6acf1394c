package ipset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is an abstract UNIX address. The kernel keeps one name space of them for each network namespace, as it does
// rules and sets, shares it between containers that share the network, and frees the name when its holder dies.
const lockName = "@sikkerguard-iptables"

// claim takes the lock that keeps a second agent from the rules. Its error is ErrRunning when an agent has it. Anybody on
// the host may bind such a name: when it is nobody who could change the firewall there is no lock, nil, and the agent
// works without, rather than not at all.
func claim() (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", lockName)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("take the lock %s: %w", lockName, err)
	}
	pid, uid, ok := holder()
	if ok && (uid == 0 || int(uid) == os.Geteuid()) {
		return nil, fmt.Errorf("%w (its process ID is %d)", ErrRunning, pid)
	}
	return nil, nil
}

// holder is the process that holds the lock.
func holder() (pid int32, uid uint32, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", lockName)
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
