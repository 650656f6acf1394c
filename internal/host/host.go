package host

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
)

// Resolver turns a name into addresses. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options say what to look at. The zero value is a host without an API.
type Options struct {
	Allow    []netip.Prefix                   // the operator's entries
	APIURL   *url.URL                         // nil: there is no API to stay reachable
	Root     string                           // directory that the paths of files start from; empty: "/"
	Resolver Resolver                         // nil: the system's
	Proxy    func(*url.URL) (*url.URL, error) // the proxy for a URL, nil for none; nil: as the environment says
}

// Host is the host that the agent runs on.
type Host struct {
	o    Options
	read func() kernel // stands in for the kernel in tests

	mu   sync.Mutex            // one look at a time
	last map[kind][]netip.Addr // what each source gave when it was last read whole
}

// New makes a host. Nothing is read yet.
func New(o Options) *Host {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Resolver == nil {
		o.Resolver = &net.Resolver{}
	}
	if o.Proxy == nil {
		o.Proxy = func(u *url.URL) (*url.URL, error) { return http.ProxyFromEnvironment(&http.Request{URL: u}) }
	}
	return &Host{o: o, read: readKernel, last: make(map[kind][]netip.Addr)}
}

// Discover looks at everything anew. The whitelist is usable whatever the error: the error says that the kernel told
// neither addresses nor routes, Problems what else could not be found. What was found earlier and cannot be found now is
// in it. It takes at most ten seconds, most of them when no name resolves; when ctx ends, names are not waited for.
//
// The kernel is asked on the calling goroutine's thread, hence about that thread's network namespace.
func (h *Host) Discover(ctx context.Context) (Whitelist, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.read()
	var s survey
	s.addAddrs(kindGateway, h.settle(kindGateway, k.gateways, k.gatewaysErr))
	s.addAddrs(kindHost, h.settle(kindHost, k.addresses, k.addressesErr))
	s.addPrefixes(kindLAN, lanRanges())
	s.addPrefixes(kindLoopback, loopbackRanges())
	s.addPrefixes(kindOperator, h.o.Allow)

	resolvers, problem, err := h.resolvers()
	s.addAddrs(kindResolver, h.settle(kindResolver, resolvers, err))
	s.report(err, problem)

	proxy, err := h.proxy(ctx)
	s.addAddrs(kindProxy, h.settle(kindProxy, proxy.addrs, err))
	s.report(err)

	api, err := h.api(ctx)
	s.addAddrs(kindAPI, h.settle(kindAPI, api, err))
	if !proxy.used {
		// Behind a proxy the API's name need not resolve here, and often does not.
		s.report(err)
	}
	if err := k.unreadable(); err != nil {
		return s.whitelist(), err
	}
	s.report(k.gatewaysErr, k.addressesErr)
	return s.whitelist(), nil
}

// settle is what of a source is whitelisted: what was found, and when it could not be read whole, what it gave the last
// time that it could.
func (h *Host) settle(k kind, found []netip.Addr, err error) []netip.Addr {
	if err != nil {
		return append(found, h.last[k]...)
	}
	slices.SortFunc(found, netip.Addr.Compare)
	h.last[k] = slices.Compact(found) // several routes lead through one gateway
	return h.last[k]
}
