package host

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
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
	Resolver Resolver                         // nil: one that asks the system's nameservers
	Proxy    func(*url.URL) (*url.URL, error) // the proxy for a URL, nil for none; nil: as the environment says
}

// Host is the host that the agent runs on.
type Host struct {
	o     Options
	read  func() kernel // stands in for the kernel in tests
	files files

	looking, resolving sync.Mutex // one look at the kernel and the files at a time, and one at the names

	mu                sync.Mutex            // guards the fields below
	conf              *conf                 // the files at the last look at them; nil before the first
	last              map[kind][]netip.Addr // what each source gave when it was last read whole
	now               map[kind][]netip.Addr // the whitelisted addresses of each source
	uplinks           []string              // the default routes that can be used
	problems, unnamed []error               // of the last look at the kernel and the files, and of the last at the names
	composed          uint64                // how many whitelists were
	alone             error                 // the last ErrContained of Surroundings
	turn              int                   // of the nameservers, in newestServer
}

// New makes a host. Nothing is read yet.
func New(o Options) *Host {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Proxy == nil {
		o.Proxy = func(u *url.URL) (*url.URL, error) { return http.ProxyFromEnvironment(&http.Request{URL: u}) }
	}
	f := files{root: o.Root, most: readMost, busy: make(chan struct{}, 1)}
	h := &Host{o: o, read: readKernel, files: f, last: map[kind][]netip.Addr{}, now: map[kind][]netip.Addr{}}
	if o.Resolver == nil {
		h.o.Resolver = h.resolver()
	}
	return h
}

// Discover looks at everything: Local and then Names.
func (h *Host) Discover(ctx context.Context) Whitelist {
	h.Local()
	return h.Names(ctx)
}

// Local looks at the kernel and at files. The whitelist is usable whatever its problems: it holds
// finds of earlier that cannot be found now, and the addresses that Names found last. It takes
// milliseconds.
//
// The kernel is asked on the calling goroutine's thread, hence about that thread's network namespace.
func (h *Host) Local() Whitelist {
	h.looking.Lock()
	defer h.looking.Unlock()
	k := h.read()
	c := h.files.read()

	h.mu.Lock()
	defer h.mu.Unlock()
	h.settle(kindGateway, k.gateways, k.gatewaysErr)
	h.settle(kindHost, k.addresses, k.addressesErr)
	h.settle(kindResolver, slices.Clone(c.addrs), c.err)
	h.conf = &c
	if k.gatewaysErr == nil {
		h.uplinks = k.uplinks
	}
	h.problems = append(present(c.err, c.problem), k.problems()...)
	return h.whitelist()
}

// Names resolves the names of the API and of the proxy before it. The whitelist also holds the last
// finds of Local. It takes at most ten seconds, most of them when no name resolves; when ctx ends,
// names are not waited for.
func (h *Host) Names(ctx context.Context) Whitelist {
	h.resolving.Lock()
	defer h.resolving.Unlock()
	proxy, proxyErr := h.proxy(ctx)
	api, apiErr := h.api(ctx)

	h.mu.Lock()
	defer h.mu.Unlock()
	h.settle(kindProxy, proxy.addrs, proxyErr)
	h.settle(kindAPI, api, apiErr)
	if proxy.used {
		apiErr = nil // Behind a proxy the API's name need not resolve here, and often does not.
	}
	h.unnamed = present(proxyErr, apiErr)
	return h.whitelist()
}

// whitelist composes the last finds. The caller holds mu.
func (h *Host) whitelist() Whitelist {
	var s survey
	for k, addrs := range h.now {
		s.addAddrs(k, addrs)
	}
	s.addPrefixes(kindLAN, blocklist.Private())
	s.addPrefixes(kindLoopback, blocklist.Loopback())
	s.addPrefixes(kindOperator, h.o.Allow)
	s.problems = slices.Concat(h.problems, h.unnamed)
	w := s.whitelist()
	h.composed++
	w.Number, w.uplinks = h.composed, h.uplinks
	return w
}

// settle keeps the addresses of a source that are whitelisted: those found, and if it could not be
// read whole, those found the last time that it could. The caller holds mu.
func (h *Host) settle(k kind, found []netip.Addr, err error) {
	if err != nil {
		h.now[k] = slices.Concat(found, h.last[k])
		return
	}
	slices.SortFunc(found, netip.Addr.Compare)
	h.last[k] = slices.Compact(found) // several routes lead through one gateway
	h.now[k] = h.last[k]
}

// present returns the errors that are not nil.
func present(errs ...error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
