package enforce

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// addAddress gives the host an address.
func addAddress(t *testing.T, addr string) {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrAdd(link, a); err != nil {
		t.Fatal(err)
	}
}

// allowlisted reports whether the kernel has the list without the address.
func allowlisted(t *testing.T, addr string) bool {
	t.Helper()
	blocked := func(addr string) bool {
		return exec.CommandContext(t.Context(), "nft", "get", "element", "inet", "sikkerguard", "blocklist4_32", "{",
			addr, "}").Run() == nil
	}
	return blocked("198.51.100.1") && !blocked(addr)
}

// surveyed waits until the newest survey contains the address.
func (s *scene) surveyed(addr string) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if v, ok := s.a.surveys.newest(); ok && v.allow.Contains(netip.MustParseAddr(addr)) {
			return
		}
	}
	s.t.Fatalf("no survey found %s", addr)
}

// TestNewestSurveyWins changes the host's addresses during a slow pull. The earlier allowlist is
// not restored, whatever the result of the pull.
func TestNewestSurveyWins(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := makeScene(t, api.String(), "198.51.100.1\n203.0.113.71\n203.0.113.72\n203.0.113.73\n")
	hold := func() (release func()) {
		c := make(chan struct{})
		s.hold.Store(&c)
		return func() { s.hold.Store(nil); close(c) }
	}
	mustAllow := func(when string, addrs ...string) {
		t.Helper()
		for _, addr := range addrs {
			if !allowlisted(t, addr) {
				t.Errorf("%s: the host's address %s is not allowlisted", when, addr)
			}
		}
	}
	// The network comes up during the first pull.
	release := hold()
	s.begin()
	<-s.a.surveys.ask()
	addAddress(t, "203.0.113.71")
	s.surveyed("203.0.113.71")
	release()
	s.await("SikkerGuard running")
	mustAllow("first pull", "203.0.113.71")

	// An address comes during a pull that succeeds, and during one that fails.
	for i, addr := range []string{"203.0.113.72", "203.0.113.73"} {
		release = hold()
		s.hup <- os.Interrupt
		s.await("SIGHUP: pulling now")
		<-s.a.surveys.ask()
		addAddress(t, addr)
		s.await("Addresses or routes of the host changed")
		s.await("Blocking ")
		mustAllow("during the pull", addr)
		ended := "The pulled list is already active"
		if i == 1 {
			s.down.Store(true)
			ended = "Refresh failed"
		}
		release()
		s.await(ended)
		mustAllow("after the pull", "203.0.113.71", "203.0.113.72", addr)
	}
	if st := s.a.o.Board.Status(); st.BlockedIPs != 1 {
		t.Errorf("%d entries are blocked, want 1", st.BlockedIPs)
	}
	s.end()
}

// pullsFail makes n pulls fail in sequence, so that the wait for the next is long.
func (s *scene) pullsFail(n int) {
	s.t.Helper()
	for range n {
		s.hup <- os.Interrupt
		s.await("SIGHUP: pulling now")
		s.await("Not blocking anything yet")
	}
}

// TestPullWhenNetworkComes: a host that boots without a network is protected as soon as the network
// is up, however long the wait for the next pull was.
func TestPullWhenNetworkComes(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		down, up func() error
	}{
		{
			"address",
			func() error { return delAddress(link, "192.0.2.1") },
			func() error { return addAddressTo(link, "192.0.2.1") },
		},
		{"link", func() error { return netlink.LinkSetDown(link) }, func() error {
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			return netlink.RouteReplace(&netlink.Route{
				LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
				Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
			})
		}},
	} {
		if err := tt.down(); err != nil {
			t.Fatal(err)
		}
		s := makeScene(t, api.String(), "198.51.100.1\n")
		s.down.Store(true)
		s.begin()
		s.await("Not blocking anything yet")
		s.pullsFail(6) // the next attempt is some minutes away
		<-s.a.surveys.ask()
		if len(s.logs.FilterMessageSnippet("The network has changed").All()) != 0 {
			t.Errorf("%s: a network is said to have come", tt.name)
		}
		s.down.Store(false)
		began := time.Now()
		if err := tt.up(); err != nil {
			t.Fatal(err)
		}
		s.await("The network has changed")
		s.await("Blocking 1 IPs")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: pulled %v after the network came", tt.name, took)
		}
		s.end()
	}
}

func addAddressTo(link netlink.Link, addr string) error {
	return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{
		IP:   net.ParseIP(addr).To4(),
		Mask: net.CIDRMask(24, 32),
	}})
}

func delAddress(link netlink.Link, addr string) error {
	return netlink.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{
		IP:   net.ParseIP(addr).To4(),
		Mask: net.CIDRMask(24, 32),
	}})
}

// moving resolves every name to one address, which can be changed.
type moving struct{ addr atomic.Pointer[netip.Addr] }

func (m *moving) to(addr string) { a := netip.MustParseAddr(addr); m.addr.Store(&a) }

func (m *moving) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{*m.addr.Load()}, nil
}

// TestResolverIsFollowed: a listed resolver is let through within two seconds after the file names
// it.
func TestResolverIsFollowed(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	root := t.TempDir()
	file := filepath.Join(root, "etc", "resolv.conf")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, api.String(), "198.51.100.1\n203.0.113.53\n", root)
	s.await("SikkerGuard running")
	if allowlisted(t, "203.0.113.53") {
		t.Fatal("the list does not block")
	}
	began := time.Now()
	if err := os.WriteFile(file+".new", []byte("nameserver 203.0.113.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	for !allowlisted(t, "203.0.113.53") {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the resolver is not let through")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("let through after %v", time.Since(began))
	s.end()
}

// TestDroppedRepliesCauseASurvey: the API's name moves to a listed address. The dropped replies
// have the name resolved again.
func TestDroppedRepliesCauseASurvey(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := makeScene(t, "api.example:9080", "198.51.100.1\n203.0.113.50\n")
	m := &moving{}
	m.to("192.0.2.2")
	s.a.o.Host = host.New(host.Options{
		APIURL: &url.URL{Scheme: "https", Host: "api.example:9080"}, Resolver: m, Root: t.TempDir(),
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
	})
	s.begin()
	s.await("Blocking 2 IPs")
	s.await("SikkerGuard running")
	m.to(api.Addr().String())
	if reaches(t) {
		t.Fatal("the list does not block")
	}
	s.await("Blocking 1 IPs")
	if !reaches(t) {
		t.Error("the API is not reached")
	}
	s.end()
}

// TestWideningNeedsNoProof: an allowlist that grows is active at once, although no check works. If
// it also shrinks, and the rules are rejected, the active allowlist is widened.
func TestWideningNeedsNoProof(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, _, _ := bench(t)
	e := a
	e.sikker().list.entries = listOf("198.51.100.1/32", "203.0.113.0/24")
	nothing := func(context.Context) host.Whitelist { return host.Whitelist{} }
	a.surveys.local, a.surveys.names = nothing, nothing
	survey := func(allow ...string) { // the newest, whatever is looked for later
		a.surveys.publish(survey{white: host.Whitelist{Number: 1}, allow: listOf(allow...)})
	}
	survey("203.0.113.50/32")
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	survey("203.0.113.50/32", "203.0.113.71/32")
	began := time.Now()
	a.applySurvey(t.Context())
	if took := time.Since(began); took > probeAgain || !allowlisted(t, "203.0.113.71") {
		t.Errorf("allowlisted %v after %v", allowlisted(t, "203.0.113.71"), took)
	}
	survey("203.0.113.72/32") // without the API, from which this cuts off
	a.applySurvey(t.Context())
	if e.trials.rejected == nil || e.attempts.stale == nil {
		t.Fatal("the rules were not rejected")
	}
	for _, addr := range []string{"203.0.113.50", "203.0.113.71", "203.0.113.72"} {
		if !allowlisted(t, addr) {
			t.Errorf("%s is not allowlisted", addr)
		}
	}
	if !reaches(t) {
		t.Error("the API is not reached")
	}
	if !a.o.Board.Latest().Holds(status.CondWhitelist) {
		t.Error("the status does not say that the allowlist is not the host's")
	}
}

// TestContainerNetworkIsLogged: an Enforcer in the network of a container warns once, with a
// remedy, until the network is no longer a container's. The state stays active: it always protects
// the container.
func TestContainerNetworkIsLogged(t *testing.T) {
	t.Parallel()
	container, outside := nettest.New(t), nettest.New(t)
	nettest.Link(container, outside, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, nil)
	root := t.TempDir()
	for path, target := range map[string]string{
		"proc/self/ns/net": "net:[1]", "proc/self/ns/pid": "pid:[1]",
		".dockerenv": "/dev/null",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	a, logs := newEnforcer(t)
	a.o.Host = host.New(host.Options{Root: root})
	a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
	for range 2 {
		container.Do(a.publishSurroundings)
	}
	s := a.o.Board.Latest()
	if !s.Holds(status.CondNamespace) || s.Holds(status.CondBridged) || s.State != status.StateActive ||
		s.Reason != "" {
		t.Errorf("in a container's network: %s %q, %+v", s.State, s.Reason, s.Conditions)
	}
	if lines := logs.FilterMessage(status.Message(status.CondNamespace)).TakeAll(); len(lines) != 1 ||
		lines[0].ContextMap()["remedy"] != s.Conditions[0].Remedy {
		t.Errorf("it was logged as %+v", lines)
	}
	container.Run("ip", "link", "add", "docker0", "type", "bridge") // it is an engine's host
	container.Do(a.publishSurroundings)
	if s := a.o.Board.Latest(); s.Holds(status.CondNamespace) ||
		logs.FilterMessage("The network of the machine is protected").Len() != 1 {
		t.Errorf("on an engine's host: %+v", s.Conditions)
	}
}
