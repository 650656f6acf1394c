package enforce

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// watched is a host whose checks are counted by name.
type watched struct {
	Host

	mu    sync.Mutex
	begun map[string]int
	ended map[string]int
}

func (w *watched) Probe(ctx context.Context, names ...string) host.Checks {
	count := func(to map[string]int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, name := range names {
			to[name]++
		}
	}
	count(w.begun)
	defer count(w.ended)
	return w.Host.Probe(ctx, names...)
}

// probes returns how often the check has begun and ended.
func (w *watched) probes(name string) (begun, ended int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun[name], w.ended[name]
}

// rebooted returns a scene with a saved list whose API does not answer, and its host.
func rebooted(t *testing.T, apiHost string, saved ...string) (*scene, *watched) {
	t.Helper()
	s := makeScene(t, apiHost, "")
	never := make(chan struct{})
	s.hold.Store(&never)
	t.Cleanup(func() { close(never) })
	if err := s.a.sikker().saved.Save(listOf(saved...), time.Now()); err != nil {
		t.Fatal(err)
	}
	w := &watched{Host: s.a.o.Host, begun: map[string]int{}, ended: map[string]int{}}
	s.a.o.Host = w
	return s, w
}

// TestSavedListIsActiveBeforeASilentGateway: on a host whose gateway answers neither ARP nor ping,
// the saved list is active and the start has ended before the check of the gateway has returned.
// The gateway is not blamed on the list afterwards, though listed sources knock meanwhile.
func TestSavedListIsActiveBeforeASilentGateway(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	gw := netip.MustParseAddr("192.0.2.77")
	if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice(), Priority: 10}); err != nil {
		t.Fatal(err)
	}
	s, w := rebooted(t, "198.51.100.99:9080", "198.51.100.1/32", "203.0.113.0/24")
	s.begin()
	s.await("Enforcing the saved list until the API answers")
	s.await("Blocking 2 IPs")
	check := "gateway " + gw.String()
	if begun, ended := w.probes(check); begun == 0 || ended > 0 {
		t.Errorf("before the rules the check has begun %d times and ended %d times", begun, ended)
	}
	s.await("SikkerGuard running")
	if _, ended := w.probes(check); ended > 0 {
		t.Error("the start has waited for the check")
	}
	if reaches(t) {
		t.Error("the saved list is not active")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, ended := w.probes(check); ended >= 3 { // one before, and two late ones
			break
		}
		if time.Now().After(end) {
			t.Fatal("the check is not made again with the rules")
		}
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 0 || st.BlockedIPs != 2 {
		t.Errorf("status: %+v", st)
	}
	s.end()
}

// slowly resolves the API's name as fickle does, but later than the first rules are active.
type slowly struct{ fickle }

func (s slowly) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	addrs, err := s.fickle.LookupNetIP(ctx, network, name)
	if slices.Contains(addrs, api.Addr()) { // for a connection
		time.Sleep(5 * baselineGrace)
	}
	return addrs, err
}

// TestSlowDependencyIsNotCutOff: the saved list contains an address that this host needs, and the
// check of it takes longer than the rules. The address is let through as soon as its answers are
// dropped, and the rest of the list stays active.
func TestSlowDependencyIsNotCutOff(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s, _ := rebooted(t, "api.example:9080", "198.51.100.1/32", "203.0.113.0/24")
	s.a.o.Host = host.New(host.Options{
		APIURL: &url.URL{Scheme: "https", Host: net.JoinHostPort("api.example", "9080")}, Resolver: slowly{},
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
	})
	s.begin()
	s.await("Blocking 2 IPs")
	if line := s.await("those it needs are let through"); !strings.Contains(line, "["+api.Addr().String()+"]") {
		t.Errorf("the log does not name it: %s", line)
	}
	for end := time.Now().Add(20 * time.Second); !reaches(t); {
		if time.Now().After(end) {
			t.Fatal("the address is not reached")
		}
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 0 || st.BlockedIPs != 2 {
		t.Errorf("status: %+v", st)
	}
	s.end()
}
