package host

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// resolver returns a resolver that asks the nameservers that Local read last. Go's resolver reads
// resolv.conf at most every five seconds. Until then it asks nameservers that the whitelist no longer
// has, and a list that holds one of those would look as if it kept this host from its DNS.
func (h *Host) resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true, // the C library's reads the file by itself
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, h.newestServer(address))
		},
	}
}

// newestServer returns the address of a nameserver to ask in the place of the one at address: that
// itself if the files name it, or name none that can be asked.
func (h *Host) newestServer(address string) string {
	server, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conf == nil || slices.Contains(h.conf.named, server.Addr().WithZone("").Unmap()) {
		return address
	}
	named := slices.DeleteFunc(slices.Clone(h.conf.named), netip.Addr.IsLinkLocalUnicast) // their zones were not kept
	if len(named) == 0 {
		return address
	}
	h.turn++ // each attempt asks another one
	return netip.AddrPortFrom(named[h.turn%len(named)], server.Port()).String()
}
