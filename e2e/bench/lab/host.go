package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dev is the name of both ends of the link of a Host.
const dev = "bench0"

// Addresses of every Host. Each Host has its own link, so they do not collide.
var (
	server4  = netip.MustParseAddr("192.0.2.1")
	server6  = netip.MustParseAddr("2001:db8:5e::1")
	gateway4 = netip.MustParseAddr("192.0.2.2")
	gateway6 = netip.MustParseAddr("2001:db8:5e::2")
	silent4  = netip.MustParseAddr("192.0.2.254") // no host has it
)

// Host is a server in a network namespace, with a link to a namespace that is its gateway and sends
// packets to it.
type Host struct {
	server, outside *os.File
	index           int // of the link outside
	mac, gatewayMAC net.HardwareAddr
	names           net.PacketConn
}

// NewHost returns a server whose gateway answers, or does not if silent.
func NewHost(silent bool) (h *Host, err error) {
	h = &Host{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	for _, ns := range []**os.File{&h.server, &h.outside} {
		if *ns, err = newNamespace(); err != nil {
			return h, fmt.Errorf("make network namespace: %w", err)
		}
	}
	err = h.in(h.server, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: dev}, PeerName: dev, PeerNamespace: netlink.NsFd(int(h.outside.Fd())),
		})
	})
	if err != nil {
		return h, fmt.Errorf("add link: %w", err)
	}
	gateway := gateway4
	if silent {
		gateway = silent4
	}
	err = h.in(h.server, func() (err error) {
		if h.mac, _, err = linkUp(server4, server6); err == nil {
			err = defaultRoutes(gateway)
		}
		return err
	})
	if err != nil {
		return h, fmt.Errorf("set up the server: %w", err)
	}
	err = h.in(h.outside, func() (err error) {
		h.gatewayMAC, h.index, err = linkUp(gateway4, gateway6)
		return err
	})
	if err != nil {
		return h, fmt.Errorf("set up the gateway: %w", err)
	}
	if h.names, err = h.serveNames(); err != nil {
		return h, err
	}
	if err := h.awaitNames(); err != nil {
		return h, fmt.Errorf("wait for the link: %w", err)
	}
	return h, nil
}

// Close gives the namespaces up. The kernel deletes them with their last process.
func (h *Host) Close() error {
	var errs []error
	if h.names != nil {
		errs = append(errs, h.names.Close())
	}
	for _, ns := range []*os.File{h.server, h.outside} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}

// Do runs f on a thread in the server's namespace. Sockets that f opens stay there. Goroutines that
// f starts do not run there.
func (h *Host) Do(f func() error) error { return h.in(h.server, f) }

func (h *Host) in(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Start starts cmd on the server, on the given CPUs. The caller waits for it. The kernel kills cmd
// when this process ends, for whatever reason.
func (h *Host) Start(cmd *exec.Cmd, cpus CPUs) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	startedC := make(chan error, 1)
	go func() {
		_ = h.Do(func() error {
			err := cpus.pin()
			if err == nil {
				err = cmd.Start()
			}
			startedC <- err
			if err == nil {
				// The kernel sends Pdeathsig when the thread that started the process ends.
				for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
				}
			}
			return nil
		})
	}()
	return <-startedC
}

// Run runs a program on the server with text as its input.
func (h *Host) Run(ctx context.Context, text, name string, args ...string) (string, error) {
	var out []byte
	err := h.Do(func() (err error) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdin = strings.NewReader(text)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %.500s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// newNamespace returns a new network namespace whose loopback device is up.
func newNamespace() (file *os.File, err error) {
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return file, err
}

// onOwnThread runs f on a thread that ends with it: the goroutine never unlocks the thread, so no
// other goroutine inherits the namespace or the CPUs of the thread.
func onOwnThread(f func() error) error {
	doneC := make(chan error)
	go func() {
		runtime.LockOSThread()
		doneC <- f()
	}()
	return <-doneC
}

// linkUp brings up the link of the calling thread's namespace. It returns its address and index.
func linkUp(a4, a6 netip.Addr) (net.HardwareAddr, int, error) {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return nil, 0, err
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(a4, 24), netip.PrefixFrom(a6, 64)} {
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return nil, 0, err
		}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // IPv6 addresses work at once
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return nil, 0, fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return link.Attrs().HardwareAddr, link.Attrs().Index, netlink.LinkSetUp(link)
}

// defaultRoutes adds the default routes of the calling thread's namespace.
func defaultRoutes(gateway netip.Addr) error {
	for _, gw := range []netip.Addr{gateway, gateway6} {
		if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("add route by %s: %w", gw, err)
		}
	}
	return nil
}
