package enforce

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// api is the address of the host's API, at the other end of the link.
var api = netip.MustParseAddrPort("203.0.113.50:9080")

// inside runs the test on a server with one neighbour, which has api's address and accepts
// connections on its port. more prepares the neighbour further.
func inside(t *testing.T, more ...func(other *nettest.NS)) {
	t.Helper()
	server, other := nettest.New(t), nettest.New(t)
	nettest.Link(server, other, "eth0",
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		[]netip.Prefix{
			netip.MustParsePrefix("192.0.2.2/24"), netip.PrefixFrom(api.Addr(), 32),
			netip.MustParsePrefix("203.0.113.53/32"),
		})
	server.DefaultRoute("eth0")
	other.DefaultRoute("eth0")
	var (
		l   net.Listener
		err error
	)
	other.Do(func() { l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf(":%d", api.Port())) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for _, f := range more {
		f(other)
	}
	server.Rerun(t)
}

// fickle resolves the API's name to one address for a survey, which has a long deadline, and to
// another when the API is connected to. Large services do the same.
type fickle struct{}

func (fickle) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) > 2*time.Second {
		return []netip.Addr{netip.MustParseAddr("198.51.100.99")}, nil
	}
	return []netip.Addr{api.Addr()}, nil
}

// scene is an Enforcer that runs, and a list that can be changed.
type scene struct {
	t     *testing.T
	a     *Enforcer
	logs  *zapobserver.ObservedLogs
	list  atomic.Pointer[string]
	down  atomic.Bool                   // the API closes connections
	hold  atomic.Pointer[chan struct{}] // the API answers when that is closed; nil: at once
	hup   chan os.Signal
	seen  int
	doneC chan error
	stop  context.CancelFunc
}

// newScene starts the Enforcer of makeScene.
func newScene(t *testing.T, apiHost, list string, root ...string) *scene {
	t.Helper()
	s := makeScene(t, apiHost, list, root...)
	s.begin()
	return s
}

func (s *scene) begin() {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.stop = cancel
	go func() { s.doneC <- runLine(ctx, s.a) }()
}

// makeScene returns a scene. apiHost is the API that the host must reach. The list comes from
// another API, on loopback. root is the directory of the host's files, if not /.
func makeScene(t *testing.T, apiHost, list string, root ...string) *scene {
	t.Helper()
	s := &scene{t: t, hup: make(chan os.Signal, 1), doneC: make(chan error, 1)}
	s.list.Store(&list)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if c := s.hold.Load(); c != nil {
			<-*c
		}
		if s.down.Load() {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, *s.list.Load())
	}))
	t.Cleanup(srv.Close)
	s.a, s.logs = newEnforcer(t, "SIKKER_API_URL="+srv.URL, "SIKKER_STATE_DIR="+filepath.Join(t.TempDir(), "state"))
	s.a.o.HangupC = s.hup
	s.a.o.Host = host.New(host.Options{
		APIURL: &url.URL{Scheme: "https", Host: apiHost}, Resolver: fickle{}, Root: strings.Join(root, ""),
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
	})
	return s
}

// await waits for a log line that contains the text, after the last one that was found.
func (s *scene) await(text string) string {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		all := s.logs.All()
		for i := s.seen; i < len(all); i++ {
			line := fmt.Sprint(all[i].Message, " ", all[i].ContextMap())
			if strings.Contains(line, text) {
				s.seen = i + 1
				return line
			}
		}
	}
	s.t.Fatalf("waited in vain for %q in %v", text, s.logs.All())
	return ""
}

func (s *scene) pull(list string) {
	s.list.Store(&list)
	s.hup <- os.Interrupt
}

func (s *scene) end() {
	s.t.Helper()
	s.stop()
	if err := <-s.doneC; err != nil {
		s.t.Errorf("run: %v", err)
	}
}

func reaches(t *testing.T) bool {
	t.Helper()
	return reachesHost(t, api.Addr().String(), time.Second)
}

func reachesHost(t *testing.T, addr string, within time.Duration) bool {
	t.Helper()
	d := net.Dialer{Timeout: within}
	c, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("%s:%d", addr, api.Port()))
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// TestRollback: a list cuts the host off from its API, by an address that is not allowlisted.
func TestRollback(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := newScene(t, "api.example:9080", "198.51.100.1\n198.51.100.2\n")
	s.await("Blocking 2 IPs")
	s.await("SikkerGuard running")
	if !reaches(t) {
		t.Fatal("the API is not reached before")
	}

	start := time.Now()
	s.pull("198.51.100.1\n203.0.113.0/24\n")
	line := s.await("Refresh failed; still blocking 2 IPs")
	t.Logf("rolled back after %v", time.Since(start))
	if !strings.Contains(line, "rolled back") || !strings.Contains(line, "API api.example:9080") ||
		!strings.Contains(line, "list of 2 entries") {
		t.Errorf("the reason is not logged: %s", line)
	}
	if !reaches(t) {
		t.Error("the API is not reached after the rollback")
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 1 || st.BlockedIPs != 2 || st.State != status.StateDegraded {
		t.Errorf("status: %+v", st)
	}
	s.pull("198.51.100.1\n203.0.113.0/24\n")
	s.await("was rolled back before, because with it this host no longer reaches: API api.example:9080")
	s.pull("198.51.100.1\n198.51.100.3\n198.51.100.4\n")
	s.await("Blocking 3 IPs")
	if st := s.a.o.Board.Status(); st.Rollbacks != 1 || st.State != status.StateActive {
		t.Errorf("status: %+v", st)
	}
	s.end()
}

// TestRollbackOfTheFirstList: no rules are better than a first list that cuts the host off.
func TestRollbackOfTheFirstList(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := newScene(t, "api.example:9080", "198.51.100.1\n203.0.113.0/24\n")
	s.await("Not blocking anything yet")
	if !reaches(t) {
		t.Error("the API is not reached after the rollback")
	}
	if ok, reason := s.a.o.Board.Health(); ok || !strings.Contains(reason, "rolled back") {
		t.Errorf("health: %v %q", ok, reason)
	}
	s.pull("198.51.100.1\n198.51.100.3\n")
	s.await("Blocking 2 IPs")
	s.end()
}

// TestEarlierFailuresAreNotBlamedOnTheList: checks that failed before a list are not blamed on it.
func TestEarlierFailuresAreNotBlamedOnTheList(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := newScene(t, "203.0.113.51:9080", "198.51.100.1\n") // no host has that address
	s.await("Blocking 1 IPs")
	s.pull("198.51.100.1\n203.0.113.0/24\n")
	s.await("Blocking 2 IPs") // the /24 less the API's address counts once
	s.end()
}

// TestAllowlistStaysReachable lists the API, a resolver, the gateway and the host's own address:
// alone, inside a /24, and inside a /8.
func TestAllowlistStaysReachable(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	gateway := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(192, 0, 2, 2), Priority: 10}
	if err := netlink.RouteAdd(gateway); err != nil {
		t.Fatal(err)
	}
	own, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("192.0.2.1:%d", api.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc", "resolv.conf"), []byte("nameserver 203.0.113.53\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	needed := []string{"203.0.113.50", "203.0.113.53", "192.0.2.2", "192.0.2.1"}
	s := newScene(t, "203.0.113.50:9080", strings.Join(needed, "\n")+"\n198.51.100.1\n198.51.100.2\n", root)
	s.await("SikkerGuard running")
	for _, list := range []string{
		"",
		"203.0.113.0/24\n192.0.2.0/24\n198.51.100.1\n198.51.100.2\n198.51.100.3\n198.51.100.4\n",
		"203.0.0.0/8\n192.0.0.0/8\n198.51.100.1\n198.51.100.2\n",
	} {
		if list != "" {
			s.pull(list)
			s.await("Blocking ")
		}
		for _, addr := range needed {
			if !reachesHost(t, addr, time.Second) {
				t.Errorf("%s is not reached with the list %q", addr, list)
			}
		}
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 0 || st.State != status.StateActive {
		t.Errorf("status: %+v", st)
	}
	s.end()
}
