package lock

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const lockName = "sikkerguard-test"

var errTaken = errors.New("the lock is taken")

func claim(t *testing.T, ns *nettest.NS) (l *Lock, err error) {
	t.Helper()
	ns.Do(func() { l, err = Claim(lockName, errTaken) })
	return l, err
}

// TestClaim checks that one agent of a network namespace gets the lock, and the next agent once the
// first has closed it.
func TestClaim(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	first, err := claim(t, ns)
	if err != nil || !first.Real() {
		t.Fatalf("got %v, %v", first.Real(), err)
	}
	_, err = claim(t, ns)
	if held := (*HeldError)(nil); !errors.Is(err, errTaken) || !errors.As(err, &held) || int(held.PID) != os.Getpid() {
		t.Errorf("second agent: got %v, want %v and a HeldError with process %d", err, errTaken, os.Getpid())
	}
	elsewhere, err := claim(t, nettest.New(t))
	if err != nil || !elsewhere.Real() {
		t.Errorf("another network namespace: %v, %v", elsewhere.Real(), err)
	}
	if err := errors.Join(elsewhere.Close(), first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	next, err := claim(t, ns)
	if err != nil || !next.Real() {
		t.Errorf("after the first agent: %v, %v", next.Real(), err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// TestClaimHeldByOthers has a process that cannot be an agent hold the name: one of another user,
// or one that does not listen. It does not keep the agent from starting.
func TestClaimHeldByOthers(t *testing.T) {
	t.Parallel()
	for name, bind := range map[string]func(*nettest.NS){
		"another user": func(ns *nettest.NS) { ns.BindAsNobody(lockName) },
		"not listening": func(ns *nettest.NS) {
			var err error
			ns.Do(func() {
				var fd int
				if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
					err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + lockName})
					t.Cleanup(func() { _ = unix.Close(fd) })
				}
			})
			if err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := nettest.New(t)
			bind(ns)
			l, err := claim(t, ns)
			if err != nil || l.Real() {
				t.Errorf("got %v, %v; want no lock and no error", l.Real(), err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("close without a lock: %v", err)
			}
		})
	}
}

// TestClaimWaits checks that Claim waits until a process between fork and exec closes its copy of
// the socket of an agent that has ended.
func TestClaimWaits(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	first, err := claim(t, ns)
	if err != nil {
		t.Fatal(err)
	}
	f, err := first.listener.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(timeout/4, func() { _ = f.Close() })
	next, err := claim(t, ns)
	if err != nil || !next.Real() {
		t.Fatalf("got %v, %v", next.Real(), err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// TestClaimOfUnit runs the holder as a user that systemd creates for a unit. With CAP_NET_ADMIN it
// may be the unit's agent. Without, it is another service.
func TestClaimOfUnit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		caps  []uintptr
		agent bool
	}{
		{"the unit's agent", []uintptr{unix.CAP_NET_ADMIN}, true},
		{"another service", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ns := nettest.New(t)
			script := `socket(S, PF_UNIX, SOCK_STREAM, 0) && bind(S, pack_sockaddr_un("\0` + lockName + `")) ` +
				`&& listen(S, 5) || die $!; $| = 1; print "up"; sleep 60`
			unit := exec.CommandContext(t.Context(), "/usr/bin/perl", "-MSocket", "-e", script)
			unit.SysProcAttr = &syscall.SysProcAttr{
				Credential: &syscall.Credential{Uid: 61_200, Gid: 61_200}, AmbientCaps: tt.caps,
			}
			out, err := unit.StdoutPipe()
			if err == nil {
				err = ns.Start(unit)
			}
			if err == nil {
				_, err = io.ReadFull(out, make([]byte, len("up")))
			}
			if err != nil {
				t.Fatal(err)
			}
			l, err := claim(t, ns)
			held := (*HeldError)(nil)
			if errors.As(err, &held) != tt.agent || !tt.agent && (err != nil || l.Real()) {
				t.Errorf("got %v, %v", l.Real(), err)
			}
			_ = unit.Process.Kill()
			_ = unit.Wait()
		})
	}
}
