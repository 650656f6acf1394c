package host

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// resolver returns a resolver that asks the nameservers that Local read last. Go's resolver reads
// resolv.conf at most every five seconds. Until then it asks nameservers that are no longer on the
// allowlist, and a list that contains one of those would seem to cut this host off from its DNS.
func (h *Host) resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true, // the C library's resolver reads the file itself
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, h.newestServer(address))
		},
	}
}

// newestServer returns the address of the nameserver to ask instead of the one at address. It
// returns address itself if the files name it, or if they name no nameserver that can be asked.
func (h *Host) newestServer(address string) string {
	server, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conf == nil || slices.Contains(h.conf.named, blocklist.CanonicalAddr(server.Addr())) {
		return address
	}
	// The zones of link-local addresses are not stored, so those cannot be asked.
	named := slices.DeleteFunc(slices.Clone(h.conf.named), netip.Addr.IsLinkLocalUnicast)
	if len(named) == 0 {
		return address
	}
	h.turn++ // each attempt asks the next nameserver
	return netip.AddrPortFrom(named[h.turn%len(named)], server.Port()).String()
}
