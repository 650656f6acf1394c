package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// requireEnv set to 1 turns the skip of a test that needs root into a failure. Set to requireNever,
// it skips such tests also for root, which makes a test run quick.
const (
	requireEnv   = "SIKKERGUARD_REQUIRE_NETNS"
	requireNever = "never"
)

// NS is a network namespace: a host that belongs to the test and ends with it.
type NS struct {
	tb   testing.TB
	file *os.File
}

// New returns a new network namespace whose loopback device is up. Without root it skips the test,
// or fails it if SIKKERGUARD_REQUIRE_NETNS=1.
func New(tb testing.TB) *NS {
	tb.Helper()
	if os.Getenv(requireEnv) == requireNever {
		tb.Skipf("%s=%s", requireEnv, requireNever)
	}
	if os.Geteuid() != 0 {
		Skip(tb, "network namespaces need root")
	}
	var (
		file *os.File
		err  error
	)
	onOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("unshare: %w", err)
			return
		}
		if file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return
		}
		err = loopbackUp()
	})
	if err != nil {
		tb.Fatalf("make network namespace: %v", err)
	}
	tb.Cleanup(func() { _ = file.Close() })
	return &NS{tb: tb, file: file}
}

// Skip skips a test that cannot run here, or fails it if SIKKERGUARD_REQUIRE_NETNS=1. why is the
// reason.
func Skip(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv(requireEnv) == "1" {
		tb.Fatalf("%s, and %s=1", why, requireEnv)
	}
	tb.Skipf("%s (%s=1 makes this a failure)", why, requireEnv)
}

// onOwnThread runs f on a thread that ends with it: the goroutine never unlocks the thread, so no
// other goroutine inherits the thread's namespace.
func onOwnThread(f func()) {
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		runtime.LockOSThread()
		f()
	}()
	<-doneC
}

// loopbackUp sets the loopback device of the calling thread's namespace up.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// Do runs f in the namespace, on a thread of its own. Sockets that f opens stay in the namespace.
// Goroutines that f starts do not run in it. f must not call FailNow, because it does not run on
// the test's goroutine.
func (n *NS) Do(f func()) {
	n.tb.Helper()
	var err error
	onOwnThread(func() {
		if err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err == nil {
			f()
		}
	})
	if err != nil {
		n.tb.Fatalf("enter network namespace: %v", err)
	}
}

// Start starts cmd in the namespace. The caller waits for it. The kernel kills cmd when this
// process ends, for whatever reason, and deletes the namespace with its last process.
func (n *NS) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	startedC := make(chan error, 1)
	go onOwnThread(func() {
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = cmd.Start()
		}
		startedC <- err
		if err == nil {
			// The kernel sends Pdeathsig when the thread that started the process ends.
			awaitExit(cmd.Process.Pid)
		}
	})
	return <-startedC
}

// awaitExit waits until a child of this process has ended. It does not reap the child, for which
// Start's caller waits.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// Run runs a program in the namespace and returns its output. An exit code other than 0 fails the
// test. The legacy iptables programs wait for those of other tests, because they share one lock.
func (n *NS) Run(name string, args ...string) string {
	n.tb.Helper()
	if name == "iptables-legacy" || name == "ip6tables-legacy" {
		args = append([]string{"--wait", "60"}, args...)
	}
	var (
		out []byte
		err error
	)
	n.Do(func() { out, err = exec.CommandContext(n.tb.Context(), name, args...).CombinedOutput() })
	if err != nil {
		n.tb.Fatalf("run %s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// FD returns the namespace's descriptor, for options of libraries. It stays open until the test
// ends.
func (n *NS) FD() int { return int(n.file.Fd()) }

// BindAsNobody makes a process of the user nobody listen at an abstract UNIX address of the
// namespace, until the test ends.
func (n *NS) BindAsNobody(name string) {
	n.tb.Helper()
	const nobody = 65534
	var l *net.UnixListener
	var err error
	n.Do(func() {
		// This changes the calling thread alone, which ends with this function.
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
			err = e
			return
		}
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: "@" + name, Net: "unix"})
	})
	if err != nil {
		n.tb.Fatalf("bind @%s: %v", name, err)
	}
	n.tb.Cleanup(func() { _ = l.Close() })
}

// Link connects two namespaces by a veth pair: dev in a with addrsA, the same name in b with
// addrsB. Duplicate address detection is off, so that IPv6 addresses work at once.
func Link(a, b *NS, dev string, addrsA, addrsB []netip.Prefix) {
	a.tb.Helper()
	var err error
	a.Do(func() {
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: dev},
			PeerName:      dev,
			PeerNamespace: netlink.NsFd(b.FD()),
		})
	})
	if err != nil {
		a.tb.Fatalf("add veth pair %s: %v", dev, err)
	}
	a.up(dev, addrsA)
	b.up(dev, addrsB)
}

// up adds the addresses to dev and sets it up.
func (n *NS) up(dev string, addrs []netip.Prefix) {
	n.tb.Helper()
	var err error
	n.Do(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName(dev); err != nil {
			return
		}
		for _, p := range addrs {
			var addr *netlink.Addr
			if addr, err = netlink.ParseAddr(p.String()); err != nil {
				return
			}
			if p.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err = netlink.AddrAdd(link, addr); err != nil {
				err = fmt.Errorf("add address %s: %w", p, err)
				return
			}
		}
		err = netlink.LinkSetUp(link)
	})
	if err != nil {
		n.tb.Fatalf("bring up %s: %v", dev, err)
	}
}

// DefaultRoute adds default routes out of dev, without a gateway, so that the host can answer any
// source.
func (n *NS) DefaultRoute(dev string) {
	n.tb.Helper()
	var err error
	n.Do(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName(dev); err != nil {
			return
		}
		for _, dst := range []string{"0.0.0.0/0", "::/0"} {
			var ipNet *netlink.Addr
			if ipNet, err = netlink.ParseAddr(dst); err != nil {
				return
			}
			err = netlink.RouteAdd(&netlink.Route{
				LinkIndex: link.Attrs().Index, Dst: ipNet.IPNet, Scope: netlink.SCOPE_LINK,
			})
			if err != nil {
				err = fmt.Errorf("add route %s: %w", dst, err)
				return
			}
		}
	})
	if err != nil {
		n.tb.Fatalf("add default route through %s: %v", dev, err)
	}
}

// insideEnv marks the process that Rerun starts.
const insideEnv = "SIKKERGUARD_TEST_INSIDE"

// Inside reports whether Rerun started this process.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Rerun runs the calling test again, in a new process whose threads are all in the namespace, for
// code that starts goroutines which open sockets. The test distinguishes the two processes by
// Inside.
func (n *NS) Rerun(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Start(cmd); err != nil {
		t.Fatalf("run %s inside: %v", t.Name(), err)
	}
	err := cmd.Wait()
	if err == nil && !strings.Contains(out.String(), "--- PASS: "+t.Name()+" ") {
		err = errors.New("it did not run, or was skipped") // which is exit code 0
	}
	if err != nil {
		t.Errorf("run %s inside: %v\n%s", t.Name(), err, out.String())
	}
}
