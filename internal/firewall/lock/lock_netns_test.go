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

const name = "sikkerguard-test"

func claim(t *testing.T, ns *nettest.NS) (l *Lock, err error) {
	t.Helper()
	ns.Do(func() { l, err = Claim(name) })
	return l, err
}

// TestClaim: one agent of a network namespace has the lock, and the next one when that is gone.
func TestClaim(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	first, err := claim(t, ns)
	if err != nil || !first.Real() {
		t.Fatalf("got %v, %v", first.Real(), err)
	}
	_, err = claim(t, ns)
	if held := (*HeldError)(nil); !errors.As(err, &held) || int(held.PID) != os.Getpid() {
		t.Errorf("a second agent: got %v, want that process %d holds it", err, os.Getpid())
	}
	elsewhere, err := claim(t, nettest.New(t))
	if err != nil || !elsewhere.Real() {
		t.Errorf("in another network namespace: %v, %v", elsewhere.Real(), err)
	}
	if err := errors.Join(elsewhere.Close(), first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	next, err := claim(t, ns)
	if err != nil || !next.Real() {
		t.Errorf("after the first: %v, %v", next.Real(), err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// TestClaimOfStranger: the name is taken by a process that cannot be an agent, one of another user
// or one that does not listen. That keeps no agent from starting.
func TestClaimOfStranger(t *testing.T) {
	t.Parallel()
	for what, bind := range map[string]func() (interface{ Close() error }, error){
		"another user": func() (interface{ Close() error }, error) {
			const nobody = 65534
			// Of this thread alone; it ends with the function that Do runs.
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
				return nil, e
			}
			return net.ListenUnix("unix", &net.UnixAddr{Name: "@" + name, Net: "unix"})
		},
		"not listening": func() (interface{ Close() error }, error) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name})
			}
			return os.NewFile(uintptr(fd), name), err
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ns := nettest.New(t)
			var stranger interface{ Close() error }
			var err error
			ns.Do(func() { stranger, err = bind() })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stranger.Close() }()
			l, err := claim(t, ns)
			if err != nil || l.Real() {
				t.Errorf("got %v, %v; want no lock and no error", l.Real(), err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("close no lock: %v", err)
			}
		})
	}
}

// TestClaimAfterAMoment: a process that is being started still has a copy of the socket of an agent
// that is gone.
func TestClaimAfterAMoment(t *testing.T) {
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
	time.AfterFunc(patience/4, func() { _ = f.Close() })
	next, err := claim(t, ns)
	if err != nil || !next.Real() {
		t.Fatalf("got %v, %v", next.Real(), err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// TestClaimOfUnit: the unit's agent runs as a user that systemd made, and has the right to change
// the firewall. Another service under such a user has not.
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
			unit := exec.CommandContext(t.Context(), "/usr/bin/perl", "-MSocket", "-e", `socket(S, PF_UNIX, SOCK_STREAM, 0) `+
				`&& bind(S, pack_sockaddr_un("\0`+name+`")) && listen(S, 5) || die $!; $| = 1; print "up"; sleep 60`)
			unit.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61_200, Gid: 61_200}, AmbientCaps: tt.caps}
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
			if held := (*HeldError)(nil); errors.As(err, &held) != tt.agent || !tt.agent && (err != nil || l.Real()) {
				t.Errorf("got %v, %v", l.Real(), err)
			}
			_ = unit.Process.Kill()
			_ = unit.Wait()
		})
	}
}
