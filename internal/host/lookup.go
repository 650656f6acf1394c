package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"
)

const (
	// lookupTimeout bounds the lookup of one name, so that a resolver that does not answer does not
	// delay the protection.
	lookupTimeout = 5 * time.Second
	// maxAnswers bounds the addresses of one name. An attacker who forges an answer chooses
	// addresses that are then never blocked.
	maxAnswers = 32
)

var (
	errNoAddress  = errors.New("no address")
	errNoProxyURL = errors.New("the value of HTTPS_PROXY or HTTP_PROXY is not a URL")
)

// api returns the addresses of the API.
func (h *Host) api(ctx context.Context) ([]netip.Addr, error) {
	if h.o.APIURL == nil || h.o.APIURL.Hostname() == "" {
		return nil, nil
	}
	addrs, err := h.lookup(ctx, h.o.APIURL.Hostname())
	if err != nil {
		return addrs, fmt.Errorf("resolve the API's name: %w; "+
			"check the host's DNS, or add the API's addresses to SIKKER_WHITELIST", err)
	}
	return addrs, nil
}

// proxy is the proxy before the API.
type proxy struct {
	used  bool
	addrs []netip.Addr
}

func (h *Host) proxy(ctx context.Context) (proxy, error) {
	if h.o.APIURL == nil {
		return proxy{}, nil
	}
	u, err := h.proxyFor(h.o.APIURL)
	if err != nil {
		// The error contains the value, and a proxy's URL may contain a password.
		return proxy{}, fmt.Errorf("find the proxy for the API: %w; correct it", errNoProxyURL)
	}
	if u == nil || u.Hostname() == "" {
		return proxy{}, nil
	}
	addrs, err := h.lookup(ctx, u.Hostname())
	if err != nil {
		err = fmt.Errorf("resolve the proxy's name: %w; "+
			"check the host's DNS, or add the proxy's addresses to SIKKER_WHITELIST", err)
	}
	return proxy{used: true, addrs: addrs}, err
}

// proxyFor returns the proxy before u, or nil if there is none. Plain http never goes through a
// proxy, which would read the key.
func (h *Host) proxyFor(u *url.URL) (*url.URL, error) {
	if u.Scheme == "http" {
		return nil, nil
	}
	return h.o.Proxy(u)
}

// lookup returns the addresses of a name, or name itself if it is an address.
func (h *Host) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := h.o.Resolver.LookupNetIP(ctx, "ip", name)
	if len(addrs) > maxAnswers {
		return addrs[:maxAnswers], fmt.Errorf("%s has %d addresses, only %d are allowlisted",
			name, len(addrs), maxAnswers)
	}
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s: %w", name, errNoAddress)
	}
	return addrs, err
}
