package enforce

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	upstream = "203.0.113.53" // answers every question, at the neighbour
	second   = "203.0.113.54" // also
	liar     = "203.0.113.66" // sends forged replies of DNS, all the time
)

// upstreams makes the neighbour answer questions at upstream and second, and send forged replies
// from liar.
func upstreams(t *testing.T) func(*nettest.NS) {
	t.Helper()
	return func(other *nettest.NS) {
		other.Run("ip", "addr", "add", second+"/32", "dev", "eth0")
		other.Run("ip", "addr", "add", liar+"/32", "dev", "eth0")
		listen := func(addr string) net.PacketConn {
			var (
				c   net.PacketConn
				err error
			)
			other.Do(func() { c, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", addr+":53") })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		for _, addr := range []string{upstream, second} {
			go serve(listen(addr), func(msg []byte) []byte { return noSuchName(msg) })
		}
		c := listen(liar)
		go func() {
			for {
				if _, err := c.WriteTo(noSuchName(make([]byte, 12)),
					&net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
}

// serve answers datagrams until the socket is closed.
func serve(c net.PacketConn, reply func([]byte) []byte) {
	for {
		buf := make([]byte, 512)
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		go func() {
			if r := reply(buf[:n]); r != nil {
				_, _ = c.WriteTo(r, from)
			}
		}()
	}
}

// noSuchName turns a question into a negative reply.
func noSuchName(msg []byte) []byte {
	if len(msg) > 3 {
		msg[2], msg[3] = 0x80, byte(dnsmessage.RCodeNameError)
	}
	return msg
}

// relay is a resolver on loopback that asks upstream. It answers sikkerapi.com itself, as from a
// cache.
type relay struct{ upstream atomic.Pointer[string] }

func (r *relay) ask(upstream string) { r.upstream.Store(&upstream) }

func (r *relay) run(t *testing.T) {
	t.Helper()
	c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go serve(c, func(msg []byte) []byte {
		var p dnsmessage.Parser
		if _, err := p.Start(msg); err != nil {
			return nil
		}
		if q, err := p.Question(); err != nil || q.Name.String() == "sikkerapi.com." {
			return noSuchName(msg)
		}
		up, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "udp", *r.upstream.Load()+":53")
		if err != nil {
			return nil
		}
		defer func() { _ = up.Close() }()
		_, _ = up.Write(msg)
		_ = up.SetReadDeadline(time.Now().Add(time.Second))
		answer := make([]byte, 512)
		n, err := up.Read(answer)
		if err != nil {
			return nil
		}
		return answer[:n]
	})
}

// relayRoot returns a root directory whose resolv.conf names the relay.
func relayRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc", "resolv.conf"), []byte("nameserver 127.0.0.1\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// exempted returns the detail of status.CondExempt; empty if the condition does not hold.
func exempted(a *Enforcer) string {
	for _, c := range a.o.Board.Status().Conditions {
		if c.Code == status.CondExempt {
			return c.Detail
		}
	}
	return ""
}

const relayList = "198.51.100.1\n" + upstream + "\n" + liar + "\n"

// TestListedUpstreamIsLetThrough: a list contains the server that the resolver on loopback asks.
// That server is let through while it is listed, and named in log and status. All other entries are
// blocked, also an address that forges replies.
func TestListedUpstreamIsLetThrough(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t, upstreams(t))
		return
	}
	r := &relay{}
	r.ask(upstream)
	r.run(t)
	s := newScene(t, api.String(), "198.51.100.1\n"+liar+"\n", relayRoot(t))
	s.await("SikkerGuard running")
	s.await("BLOCKED answers from " + liar + ":53")
	s.pull(relayList)
	if line := s.await("those it needs are let through"); !strings.Contains(line, "["+upstream+"]") ||
		!strings.Contains(line, "resolver 127.0.0.1") {
		t.Errorf("the log does not name it: %s", line)
	}
	s.await("Blocking 2 IPs")
	if !allowlisted(t, upstream) || allowlisted(t, liar) {
		t.Errorf("let through: %s %v, %s %v", upstream, allowlisted(t, upstream), liar, allowlisted(t, liar))
	}
	if detail := exempted(s.a); !strings.Contains(detail, upstream) || strings.Contains(detail, liar) {
		t.Errorf("the status says %q", detail)
	}
	if st := s.a.o.Board.Status(); st.Rollbacks != 0 || st.State != status.StateActive {
		t.Errorf("status: %+v", st)
	}
	s.pull(relayList + "198.51.100.2\n") // exemptions outlast the next list
	s.await("Blocking 3 IPs")
	if !allowlisted(t, upstream) {
		t.Error("the next list blocks the upstream")
	}
	s.pull("198.51.100.1\n" + liar + "\n")
	s.await("is no longer needed")
	if detail := exempted(s.a); detail != "" {
		t.Errorf("the status still says %q", detail)
	}
	s.end()
}

// TestListedUpstreamOfALateResolver: the resolver on loopback starts after the list is active.
func TestListedUpstreamOfALateResolver(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t, upstreams(t))
		return
	}
	s := newScene(t, api.String(), relayList, relayRoot(t))
	s.await("Blocking 3 IPs")
	s.await("SikkerGuard running")
	r := &relay{}
	r.ask(upstream)
	r.run(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // programs of the host
		for ctx.Err() == nil {
			_, _ = (&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "udp", "127.0.0.1:53")
			}}).LookupNetIP(ctx, "ip4", "www.example.org")
		}
	}()
	s.await("those it needs are let through")
	if detail := exempted(s.a); !strings.Contains(detail, upstream) || strings.Contains(detail, liar) {
		t.Errorf("the status says %q", detail)
	}
	s.end()
}

// TestForgedAnswersExemptNothing: the resolver on loopback has lost its upstream for another
// reason, and a listed address sends forged replies.
func TestForgedAnswersExemptNothing(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t, upstreams(t))
		return
	}
	r := &relay{}
	r.ask("203.0.113.99") // no host has that address
	r.run(t)
	s := newScene(t, api.String(), relayList, relayRoot(t))
	s.await("Blocking 3 IPs")
	s.await("The list does not cut the resolver off")
	if detail := exempted(s.a); detail != "" || allowlisted(t, liar) {
		t.Errorf("let through: %q", detail)
	}
	if st := s.a.o.Board.Status(); st.BlockedIPs != 3 || st.Rollbacks != 0 {
		t.Errorf("status: %+v", st)
	}
	s.end()
}

// TestRetestExemptions: an exemption that is needed stays, and one that is not needed ends.
func TestRetestExemptions(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t, upstreams(t))
		return
	}
	r := &relay{}
	r.ask(upstream)
	r.run(t)
	a, _, _ := bench(t)
	a.o.Host = host.New(host.Options{
		APIURL: &url.URL{Scheme: "https", Host: api.String()}, Root: relayRoot(t),
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
	})
	a.surveys.publish(newSurvey(discover(t, a.o.Host)))
	e := a
	e.sikker().list.entries = listOf("198.51.100.1/32", upstream+"/32")
	e.trials.exempt.addrs, e.trials.exempt.checks = []netip.Addr{netip.MustParseAddr(upstream)},
		[]string{"resolver 127.0.0.1"}
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		asks     string
		due      bool
		exempted bool
	}{
		{upstream, true, true},
		{second, false, true},
		{second, true, false},
	} {
		r.ask(tt.asks)
		if tt.due {
			e.trials.exempt.retested = time.Now().Add(-retestAfter)
		}
		a.retestExemptions(t.Context())
		if got := exempted(a) != ""; got != tt.exempted || allowlisted(t, upstream) != tt.exempted {
			t.Errorf("asking %s, due %v: exempted %v, in the kernel %v; want %v", tt.asks, tt.due, got,
				allowlisted(t, upstream), tt.exempted)
		}
	}
}
