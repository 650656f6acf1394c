package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// watching runs a watch until the test ends, and returns a channel that receives a value at each
// change.
func watching(t *testing.T, watch func(context.Context, func()) error) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changedC := make(chan struct{}, 4096)
	doneC := make(chan error, 1)
	go func() { doneC <- watch(ctx, func() { changedC <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-doneC:
			if err != nil {
				t.Errorf("watch: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("still watching")
		}
	})
	return changedC
}

// kernelWatch watches a namespace through a socket with a receive buffer of the given size, in
// bytes.
func kernelWatch(t *testing.T, ns *nettest.NS, buffer int) <-chan struct{} {
	t.Helper()
	var (
		f   *os.File
		err error
	)
	ns.Do(func() { f, err = subscribe(buffer) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return watching(t, func(ctx context.Context, changed func()) error { return coalesce(ctx, f, changed) })
}

func mustChange(t *testing.T, when string, changedC <-chan struct{}) {
	t.Helper()
	select {
	case <-changedC:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no change is reported", when)
	}
}

func mustNotChange(t *testing.T, when string, changedC <-chan struct{}) {
	t.Helper()
	select {
	case <-changedC:
		t.Fatalf("%s: a change is reported", when)
	case <-time.After(4 * watchSettle):
	}
}

// TestWatch checks that a watch reports possible changes from before it began, and changes of
// addresses, default routes and links, but of no other routes.
func TestWatch(t *testing.T) {
	t.Parallel()
	server, peer := nettest.New(t), nettest.New(t)
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24", "2001:db8::10/64"), nil)
	awaitLinkLocal(t, server)
	changedC := kernelWatch(t, server, watchBuffer)
	mustChange(t, "at the start", changedC)
	mustNotChange(t, "nothing", changedC)
	for _, cmd := range []string{
		"addr add 198.51.100.1/32 dev sg0",
		"route add default via 192.0.2.2",
		"route change default via 192.0.2.3",
		"route del default",
		"-6 route add default via 2001:db8::2 table 100",
		"route add 0.0.0.0/1 via 192.0.2.2",
		"link set sg0 down",
	} {
		server.Run("ip", strings.Fields(cmd)...)
		mustChange(t, cmd, changedC)
	}
	server.Run("ip", "link", "set", "sg0", "up")
	mustChange(t, "link up", changedC)
	awaitLinkLocal(t, server)
	for len(changedC) > 0 || !quiet(changedC) {
		<-changedC
	}
	server.Run("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.2")
	server.Run("ip", "-6", "route", "add", "2001:db8:1::/48", "dev", "sg0")
	mustNotChange(t, "routes to networks", changedC)
}

// TestWatchCarrier plugs a cable into a host with static addresses and routes, which do not change.
// The watch reports the carrier, and the host has gained its default route.
func TestWatchCarrier(t *testing.T) {
	t.Parallel()
	server, peer := nettest.New(t), nettest.New(t)
	disableIPv6(server) // its addresses come and go with the carrier
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24"), nil)
	server.Run("ip", "route", "add", "default", "via", "192.0.2.2")
	h := New(Options{Root: t.TempDir(), Proxy: noProxy})
	look := func() (w Whitelist) {
		server.Do(func() { w = h.Local() })
		return w
	}
	changedC := kernelWatch(t, server, watchBuffer)
	mustChange(t, "at the start", changedC)
	before := look()
	peer.Run("ip", "link", "set", "sg0", "down")
	mustChange(t, "unplugged", changedC)
	for len(changedC) > 0 || !quiet(changedC) {
		<-changedC
	}
	unplugged := look()
	if unplugged.Gained(before) || !before.Gained(unplugged) {
		t.Fatal("the default route can be used without a carrier")
	}
	peer.Run("ip", "link", "set", "sg0", "up")
	for !look().Gained(unplugged) {
		mustChange(t, "plugged in", changedC)
	}
}

// awaitLinkLocal waits until sg0 has its link-local address and the kernel has verified that no
// other host uses it. That takes seconds.
func awaitLinkLocal(t *testing.T, ns *nettest.NS) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var (
			addrs []netlink.Addr
			err   error
		)
		ns.Do(func() {
			var link netlink.Link
			if link, err = netlink.LinkByName("sg0"); err == nil {
				addrs, err = netlink.AddrList(link, netlink.FAMILY_V6)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		ready := func(a netlink.Addr) bool {
			return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
		}
		if slices.ContainsFunc(addrs, ready) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("sg0 gets no link-local address")
		}
	}
}

// disableIPv6 disables IPv6 in a namespace.
func disableIPv6(ns *nettest.NS) {
	ns.Run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
}

// quiet reports whether no further change is reported.
func quiet(changedC <-chan struct{}) bool {
	time.Sleep(4 * watchSettle)
	return len(changedC) == 0
}

// TestWatchFullTable checks that a router's full table neither delays nor hides a change of the
// default route, and that Local is quick on such a host.
func TestWatchFullTable(t *testing.T) {
	t.Parallel()
	routes := 150_000
	if testing.Short() {
		routes = 10_000
	}
	server, peer := nettest.New(t), nettest.New(t)
	disableIPv6(server) // no link-local address is added late
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24"), nil)
	changedC := kernelWatch(t, server, 4096) // a hundred messages overrun so small a buffer
	mustChange(t, "at the start", changedC)
	if !quiet(changedC) {
		<-changedC
	}
	batch := filepath.Join(t.TempDir(), "routes")
	var b strings.Builder
	for i := range routes {
		fmt.Fprintf(&b, "route add 100.%d.%d.%d/32 via 192.0.2.2\n", i>>16, i>>8&255, i&255)
	}
	if err := os.WriteFile(batch, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Run("ip", "-batch", batch)
	if n := len(changedC); n != 0 {
		t.Errorf("%d changes are reported for routes that are not default routes", n)
	}
	server.Run("ip", "route", "add", "default", "via", "192.0.2.1")
	mustChange(t, "default route", changedC)
	h := New(Options{Root: t.TempDir(), Proxy: noProxy})
	start := time.Now()
	var w Whitelist
	server.Do(func() { w = h.Local() })
	took := time.Since(start)
	t.Logf("Local with %d routes took %v", routes, took)
	if took > 3*time.Second {
		t.Errorf("Local with %d routes took %v", routes, took)
	}
	if !contains(w, "192.0.2.1/32") || len(w.Problems) != 0 {
		t.Errorf("the gateway is not found: %v %v", w.Prefixes(), w.Problems)
	}
}

func contains(w Whitelist, p string) bool {
	for _, q := range w.Prefixes() {
		if q == netip.MustParsePrefix(p) {
			return true
		}
	}
	return false
}

// TestWatchOverrun checks that messages which the kernel could not deliver count as a change, and
// that the watch goes on.
func TestWatchOverrun(t *testing.T) {
	t.Parallel()
	server, peer := nettest.New(t), nettest.New(t)
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24"), nil)
	var (
		f   *os.File
		err error
	)
	server.Do(func() { f, err = subscribe(4096) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	// The watch does not read meanwhile, and the buffer holds ten messages.
	for i := range 200 {
		server.Run("ip", "addr", "add", fmt.Sprintf("198.51.100.%d/32", i), "dev", "sg0")
	}
	changedC := watching(t, func(ctx context.Context, changed func()) error { return coalesce(ctx, f, changed) })
	mustChange(t, "at the start", changedC)
	mustChange(t, "overrun", changedC)
	if !quiet(changedC) {
		<-changedC
	}
	server.Run("ip", "addr", "del", "198.51.100.7/32", "dev", "sg0")
	mustChange(t, "after the overrun", changedC)
}

// TestWatchFiles checks that changed resolvers are noticed by whatever way the file changes.
func TestWatchFiles(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{
		"etc/resolv.conf":                 "nameserver 192.0.2.1\n",
		"run/systemd/resolve/resolv.conf": "nameserver 192.0.2.90\n",
		"elsewhere/resolv.conf":           "nameserver 192.0.2.4\n",
		"mounted":                         "nameserver 192.0.2.6\n",
	})
	file := filepath.Join(dir, "etc/resolv.conf")
	h := testHost(Options{Root: dir}, kernel{})
	h.Local()
	changedC := watching(t, h.WatchFiles)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) { t.Helper(); must(os.WriteFile(name, []byte(text), 0o600)) }
	for _, tt := range []struct {
		name   string
		change func()
		want   string
	}{
		{"written in place", func() { write(file, "nameserver 192.0.2.2\n") }, "192.0.2.2/32"},
		{"replaced by rename", func() {
			write(file+".new", "nameserver 192.0.2.3\n")
			must(os.Rename(file+".new", file))
		}, "192.0.2.3/32"},
		{"removed", func() { must(os.Remove(file)) }, ""},
		{"replaced by a link to another directory", func() {
			must(os.Symlink("../elsewhere/resolv.conf", file))
		}, "192.0.2.4/32"},
		{"the target of the link", func() {
			write(filepath.Join(dir, "elsewhere/resolv.conf"), "nameserver 192.0.2.5\n")
		}, "192.0.2.5/32"},
		{"the stub of systemd-resolved", func() {
			must(os.Remove(file))
			write(file, "nameserver 127.0.0.53\n")
		}, "192.0.2.90/32"},
		{"the resolvers behind the stub", func() {
			name := filepath.Join(dir, "run/systemd/resolve/resolv.conf")
			write(name+".new", "nameserver 192.0.2.91\n")
			must(os.Rename(name+".new", name))
		}, "192.0.2.91/32"},
		{"directory replaced", func() {
			must(os.Rename(filepath.Join(dir, "etc"), filepath.Join(dir, "old")))
			must(os.Mkdir(filepath.Join(dir, "etc"), 0o700))
			write(file, "nameserver 192.0.2.7\n")
		}, "192.0.2.7/32"},
	} {
		tt.change()
		mustChange(t, tt.name, changedC)
		for h.Local(); len(changedC) > 0; {
			<-changedC
		}
		if w := h.Local(); tt.want != "" && !contains(w, tt.want) {
			t.Errorf("%s: %s is not found in %v", tt.name, tt.want, w.Prefixes())
		}
	}
	if os.Geteuid() == 0 {
		must(unix.Mount(filepath.Join(dir, "mounted"), file, "", unix.MS_BIND, ""))
		defer func() { _ = unix.Unmount(file, unix.MNT_DETACH) }()
		mustChange(t, "mounted over", changedC)
		h.Local()
	}
}

// TestHalfWrittenFile has a program empty the file before writing it. A reading in between would
// remove the resolvers from the allowlist, so the watch does not report a change that only one
// reading finds.
func TestHalfWrittenFile(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n"})
	newsC := make(chan struct{}, 1)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		offer(newsC)
	}
	synctest.Test(t, func(t *testing.T) {
		h := testHost(Options{Root: dir}, kernel{})
		h.Local()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		changes := 0
		newsC = make(chan struct{}, 1) // of this bubble
		go h.compareFiles(ctx, newsC, func() { changes++ })
		time.Sleep(filesInterval * 3 / 2)
		for range 3 {
			write("")
			time.Sleep(filesInterval / 2)
			write("nameserver 192.0.2.1\n")
			time.Sleep(filesInterval)
		}
		synctest.Wait()
		if changes != 0 {
			t.Errorf("%d changes are reported for a file with its original content", changes)
		}
		for range 9 { // more news do not make two readings of them
			write("")
			time.Sleep(filesInterval / 8)
		}
		synctest.Wait()
		if changes != 1 {
			t.Errorf("%d changes are reported for a file that stays empty, want 1", changes)
		}
	})
}

// TestFileSystemHangs checks that a file system that does not answer delays Local by readTimeout at
// most, and that the known resolvers stay.
func TestFileSystemHangs(t *testing.T) {
	t.Parallel()
	h := testHost(Options{Root: root(t, map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n"})}, kernel{})
	h.Local()
	timeout := h.files.timeout
	h.files.timeout = 50 * time.Millisecond
	h.files.busy <- struct{}{} // a reader that hangs
	w := h.Local()
	if !contains(w, "192.0.2.1/32") || len(w.Problems) != 1 ||
		!strings.Contains(w.Problems[0].Error(), errDiskHangs.Error()) {
		t.Errorf("got %v and problems %v", w.Prefixes(), w.Problems)
	}
	<-h.files.busy
	h.files.timeout = timeout
	if w := h.Local(); len(w.Problems) != 0 {
		t.Errorf("problems afterwards: %v", w.Problems)
	}
}

// TestGainedNetwork checks that a cable that is plugged in again, and a new address, count as
// gained.
func TestGainedNetwork(t *testing.T) {
	t.Parallel()
	server, peer := nettest.New(t), nettest.New(t)
	for _, ns := range []*nettest.NS{server, peer} {
		disableIPv6(ns) // no link-local address is added late
	}
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24"), nil)
	server.Run("ip", "route", "add", "default", "via", "192.0.2.1")
	h := New(Options{Root: t.TempDir(), Proxy: noProxy})
	look := func() (w Whitelist) { server.Do(func() { w = h.Local() }); return w }
	await := func(when string, uplinks int) Whitelist {
		t.Helper()
		w := look()
		for end := time.Now().Add(10 * time.Second); len(w.uplinks) != uplinks; w = look() {
			if time.Now().After(end) {
				t.Fatalf("%s: %v", when, w.uplinks)
			}
			time.Sleep(10 * time.Millisecond)
		}
		return w
	}
	plugged := await("plugged in", 1)
	peer.Run("ip", "link", "set", "sg0", "down")
	unplugged := await("unplugged", 0)
	if unplugged.Gained(plugged) {
		t.Error("an unplugged cable counts as gained")
	}
	peer.Run("ip", "link", "set", "sg0", "up")
	if again := await("plugged in again", 1); !again.Gained(unplugged) || again.Gained(plugged) {
		t.Error("a cable that is plugged in again does not count as gained")
	}
	server.Run("ip", "addr", "add", "198.51.100.1/32", "dev", "sg0")
	if w := look(); !w.Gained(plugged) || plugged.Gained(w) {
		t.Error("a new address does not count as gained")
	}
}
