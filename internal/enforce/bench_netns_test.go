package enforce

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	zapobserver "go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// hooked is the kernel. It calls after once when it has accepted rules, and may return err.
type hooked struct {
	firewall.Backend

	after func()
	err   atomic.Pointer[error]
	tries atomic.Int64
}

func (h *hooked) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	h.tries.Add(1)
	if err := h.err.Load(); err != nil && !errors.Is(*err, firewall.ErrMismatch) {
		return ruleset.Evidence{}, *err
	}
	ev, err := h.Backend.Apply(ctx, rs)
	if h.after != nil {
		h.after()
		h.after = nil
	}
	if err := h.err.Load(); err != nil {
		return ruleset.Evidence{}, *err
	}
	return ev, err
}

// bench returns an Enforcer that does not run, on the real kernel of the test's server. Its check
// is whether it reaches api.
func bench(t *testing.T) (*Enforcer, *hooked, *zapobserver.ObservedLogs) {
	t.Helper()
	a, logs := newEnforcer(t)
	a.o.Host = host.New(host.Options{
		APIURL: &url.URL{Scheme: "https", Host: "api.example:9080"}, Resolver: fickle{}, Root: t.TempDir(),
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
	})
	fw, err := firewall.Open(firewall.Options{LogRate: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(fw.Remove(), fw.Close()) })
	h := &hooked{Backend: fw}
	a.backend.fw = h
	discover(t, a.o.Host)
	return a, h, logs
}

// discover makes a whole survey.
func discover(t *testing.T, h Host) host.Whitelist {
	t.Helper()
	h.Local()
	return h.Names(t.Context())
}

// outage makes api unreachable for a time. It does not wait; overC is closed after that time.
func outage(t *testing.T, most time.Duration) (overC <-chan struct{}) {
	t.Helper()
	away := &netlink.Route{
		Dst:  &net.IPNet{IP: api.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)},
		Type: unix.RTN_BLACKHOLE,
	}
	if err := netlink.RouteAdd(away); err != nil {
		t.Fatal(err)
	}
	c := make(chan struct{})
	time.AfterFunc(most, func() {
		defer close(c)
		_ = netlink.RouteDel(away)
	})
	return c
}

func listOf(prefixes ...string) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, p := range prefixes {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return blocklist.New(ps)
}

// newestWith returns a survey with an allowlist of its own. No survey of the host replaces it.
func newestWith(allow blocklist.Blocklist) survey {
	return survey{white: host.Whitelist{Number: math.MaxUint64}, allow: allow}
}

// answers records dropped replies of an address to this host.
func answers(a *Enforcer, addr netip.Addr) {
	a.trials.repliers.add([]sensor.Hit{{
		Key:     sensor.Key{Source: addr, Port: api.Port(), Kind: sensor.Answer},
		Packets: 3,
	}}, time.Now())
}
