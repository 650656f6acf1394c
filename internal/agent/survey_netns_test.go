package agent

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
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

// whitelisted reports whether the kernel lets the address through.
func whitelisted(t *testing.T, addr string) bool {
	t.Helper()
	return exec.CommandContext(t.Context(), "nft", "get", "element", "inet", "sikkerguard", "whitelist4", "{", addr, "}").Run() == nil
}

// surveyed waits until the newest survey knows the address.
func (s *scene) surveyed(addr string) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if v, ok := s.a.surveys.newest(); ok && v.allow.Contains(netip.MustParseAddr(addr)) {
			return
		}
	}
	s.t.Fatalf("no survey found %s", addr)
}

// TestNewestSurveyWins changes the host's addresses while a pull takes long. The whitelist from before the pull is not put
// back, whatever the pull comes to.
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
			if !whitelisted(t, addr) {
				t.Errorf("%s: the host's address %s is not whitelisted", when, addr)
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
		ended := "Blocking "
		if i == 1 {
			s.down.Store(true)
			ended = "Refresh did not succeed"
		}
		release()
		s.await(ended)
		mustAllow("after the pull", "203.0.113.71", "203.0.113.72", addr)
	}
	if st := s.a.Status(); st.BlockedIPs != 1 {
		t.Errorf("%d entries are blocked, want 1", st.BlockedIPs)
	}
	s.end()
}
