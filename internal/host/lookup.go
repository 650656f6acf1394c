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
	// lookupTimeout bounds one name: a resolver that does not answer must not hold up the protection.
	lookupTimeout = 5 * time.Second
	// maxAnswers bounds what an answer adds to the whitelist, because whoever forges one chooses what is not blocked.
	maxAnswers = 32
)

var (
	errNoAddress  = errors.New("no address")
	errNoProxyURL = errors.New("the value of HTTPS_PROXY or HTTP_PROXY is no URL")
)

// api is where the API is.
func (h *Host) api(ctx context.Context) ([]netip.Addr, error) {
	if h.o.APIURL == nil || h.o.APIURL.Hostname() == "" {
		return nil, nil
	}
	addrs, err := h.lookup(ctx, h.o.APIURL.Hostname())
	if err != nil {
		return addrs, fmt.Errorf("resolve the API's name: %w; check the host's DNS, or name the API in SIKKER_WHITELIST", err)
	}
	return addrs, nil
}

// proxy is what the way to the API leads through.
type proxy struct {
	used  bool
	addrs []netip.Addr
}

func (h *Host) proxy(ctx context.Context) (proxy, error) {
	if h.o.APIURL == nil {
		return proxy{}, nil
	}
	u, err := h.before(h.o.APIURL)
	if err != nil {
		// The cause quotes the value, and a proxy's URL may hold a password.
		return proxy{}, fmt.Errorf("find the proxy for the API: %w; correct it", errNoProxyURL)
	}
	if u == nil || u.Hostname() == "" {
		return proxy{}, nil
	}
	addrs, err := h.lookup(ctx, u.Hostname())
	if err != nil {
		err = fmt.Errorf("resolve the proxy's name: %w; check the host's DNS, or name the proxy in SIKKER_WHITELIST", err)
	}
	return proxy{used: true, addrs: addrs}, err
}

// before returns the proxy before u, nil if there is none. Plain http never goes through a proxy,
// which would read the key.
func (h *Host) before(u *url.URL) (*url.URL, error) {
	if u.Scheme == "http" {
		return nil, nil
	}
	return h.o.Proxy(u)
}

// lookup is the addresses of a name, or the address that it is.
func (h *Host) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := h.o.Resolver.LookupNetIP(ctx, "ip", name)
	if len(addrs) > maxAnswers {
		return addrs[:maxAnswers], fmt.Errorf("%s has %d addresses, only %d are whitelisted", name, len(addrs), maxAnswers)
	}
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s: %w", name, errNoAddress)
	}
	return addrs, err
}
