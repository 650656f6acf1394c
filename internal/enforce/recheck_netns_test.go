package enforce

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// booting returns an Enforcer that started while the API's host could not be reached, so that no
// check blames a list that contains it. Now the host can be reached, and its replies are dropped;
// the API that lists come from is down.
func booting(t *testing.T, apiHost string) *scene {
	t.Helper()
	away := &netlink.Route{
		Dst:  &net.IPNet{IP: api.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)},
		Type: unix.RTN_BLACKHOLE,
	}
	if err := netlink.RouteAdd(away); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, apiHost, "198.51.100.1\n203.0.113.0/24\n")
	s.await("Blocking 2 IPs")
	s.await("SikkerGuard running")
	if err := netlink.RouteDel(away); err != nil {
		t.Fatal(err)
	}
	if reaches(t) {
		t.Fatal("the list does not block")
	}
	s.await("BLOCKED answers from 203.0.113.50:9080")
	s.down.Store(true)
	s.hup <- os.Interrupt
	s.await("letting their sources through for a moment")
	return s
}

// TestListedAddressIsExempted: an address of the list is let through that the host needs and did
// not reach before the list. The rest of the list stays active.
func TestListedAddressIsExempted(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := booting(t, "api.example:9080")
	if line := s.await("those it needs are let through"); !strings.Contains(line, "["+api.Addr().String()+"]") ||
		!strings.Contains(line, "API api.example:9080") {
		t.Errorf("the log does not name it: %s", line)
	}
	s.await("still blocking 2 IPs") // the /24 less the API's address, and the other one
	if !reaches(t) {
		t.Error("the API is not reached")
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 0 || st.State != status.StateDegraded ||
		!st.Holds(status.CondExempt) || !st.Holds(status.CondRefresh) {
		t.Errorf("status: %+v", st)
	}
	s.down.Store(false)
	s.pull("198.51.100.1\n198.51.100.2\n198.51.100.3\n")
	s.await("is no longer needed")
	if st := s.a.o.Board.Status(); st.State != status.StateActive || st.Holds(status.CondExempt) {
		t.Errorf("with another list: %+v", st)
	}
	s.end()
}

// TestActiveListThatIsNotTheCauseStays: a list stays active if it is not the cause of a failed
// check.
func TestActiveListThatIsNotTheCauseStays(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := booting(t, "198.51.100.200:9080") // no host has that address
	s.await("The list is not the cause; blocking 2 IPs as before")
	s.await("Refresh failed; still blocking 2 IPs")
	if reaches(t) {
		t.Error("the list does not block afterwards")
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 0 || st.State != status.StateDegraded || st.BlockedIPs != 2 {
		t.Errorf("status: %+v", st)
	}
	s.end()
}
