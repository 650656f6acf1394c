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

// Resolver resolves a name to addresses. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options configures a Host. The zero value is a host without an API.
type Options struct {
	Allow    []netip.Prefix // the operator's entries
	APIURL   *url.URL       // nil: there is no API to stay reachable
	Root     string         // root directory of file paths; empty: "/"
	Resolver Resolver       // nil: a resolver that asks the system's nameservers

	// Proxy returns the proxy for a URL, or nil for none. If Proxy is nil, the proxy comes from the
	// environment (http.ProxyFromEnvironment).
	Proxy func(*url.URL) (*url.URL, error)
}

// Host is the host that the agent runs on.
type Host struct {
	o     Options
	read  func() kernel // readKernel; replaced in tests
	files files

	localMu sync.Mutex // serializes Local
	namesMu sync.Mutex // serializes Names

	mu            sync.Mutex // guards the fields below
	conf          *conf      // the files at the last reading; nil before the first
	finds         finds
	uplinks       []string // default routes that can be used
	localProblems []error  // problems of the last Local
	nameProblems  []error  // problems of the last Names
	composed      uint64   // number of allowlists composed
	lastContained error    // the last ErrContained of Surroundings
	turn          int      // counts the attempts of newestServer
}

// New returns a Host. It reads nothing.
func New(o Options) *Host {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Proxy == nil {
		o.Proxy = func(u *url.URL) (*url.URL, error) {
			return http.ProxyFromEnvironment(&http.Request{URL: u})
		}
	}
	h := &Host{
		o: o, read: readKernel,
		files: files{root: o.Root, timeout: readTimeout, busy: make(chan struct{}, 1)},
		finds: newFinds(),
	}
	if o.Resolver == nil {
		h.o.Resolver = h.resolver()
	}
	return h
}

// Local reads the kernel and the files. The result is usable whatever its problems: it contains
// earlier finds of sources that cannot be read now, and the addresses that Names found last. It
// takes milliseconds; a file system that does not answer delays it by readTimeout.
//
// Local queries the network namespace of the calling goroutine's thread.
func (h *Host) Local() Whitelist {
	h.localMu.Lock()
	defer h.localMu.Unlock()
	k := h.read()
	c := h.files.read()

	h.mu.Lock()
	defer h.mu.Unlock()
	h.finds.record(kindGateway, k.gateways, k.gatewaysErr)
	h.finds.record(kindHost, k.addresses, k.addressesErr)
	h.finds.record(kindResolver, slices.Clone(c.addrs), c.err)
	h.conf = &c
	if k.gatewaysErr == nil {
		h.uplinks = k.uplinks
	}
	h.localProblems = append(nonNil(c.err, c.problem), k.problems()...)
	return h.whitelist()
}

// Names resolves the names of the API and of the proxy before it. The result also contains the last
// finds of Local. It takes at most ten seconds, and that long only if no name resolves. When ctx
// ends, Names no longer waits for lookups.
func (h *Host) Names(ctx context.Context) Whitelist {
	h.namesMu.Lock()
	defer h.namesMu.Unlock()
	proxy, proxyErr := h.proxy(ctx)
	api, apiErr := h.api(ctx)

	h.mu.Lock()
	defer h.mu.Unlock()
	h.finds.record(kindProxy, proxy.addrs, proxyErr)
	h.finds.record(kindAPI, api, apiErr)
	if proxy.used {
		apiErr = nil // behind a proxy the API's name need not resolve here, and often does not
	}
	h.nameProblems = nonNil(proxyErr, apiErr)
	return h.whitelist()
}

// whitelist composes the allowlist from the current finds. The caller holds mu.
func (h *Host) whitelist() Whitelist {
	var b builder
	for k, addrs := range h.finds.current {
		b.addAddrs(k, addrs)
	}
	b.addPrefixes(kindLAN, blocklist.Private())
	b.addPrefixes(kindLoopback, blocklist.Loopback())
	b.addPrefixes(kindOperator, h.o.Allow)
	b.problems = slices.Concat(h.localProblems, h.nameProblems)
	w := b.whitelist()
	h.composed++
	w.Number, w.uplinks = h.composed, h.uplinks
	for k := range h.finds.recalled {
		w.recalled[k] = true
	}
	return w
}

// nonNil returns the errors that are not nil.
func nonNil(errs ...error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
