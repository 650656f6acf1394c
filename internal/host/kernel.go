package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// dumpAttempts is how often a dump is begun that the kernel calls interrupted, because routes or addresses changed
	// under it. On a host where containers come and go all the time every single one may be.
	dumpAttempts = 5
	// netlinkTimeout is how long one message of the kernel may take. It answers a dump within milliseconds.
	netlinkTimeout = 5 * time.Second
)

// kernel is what netlink tells. Either half may be partly there beside its error.
type kernel struct {
	gateways     []netip.Addr
	uplinks      []string // the default routes that can be used
	gatewaysErr  error
	addresses    []netip.Addr
	addressesErr error
}

// problems returns the errors of both halves. If the kernel answered nothing at all, it is one error
// that names the way out.
func (k kernel) problems() []error {
	if k.gatewaysErr == nil || k.addressesErr == nil || len(k.gateways)+len(k.addresses) > 0 {
		return present(k.gatewaysErr, k.addressesErr)
	}
	return []error{fmt.Errorf("ask the kernel what this host depends on: %w; "+
		"name its gateways and addresses in SIKKER_WHITELIST until that works", errors.Join(k.addressesErr, k.gatewaysErr))}
}

// readKernel asks by a socket of its own, opened and closed here: it belongs to the calling thread's network namespace.
func readKernel() kernel {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		defer h.Close()
		err = h.SetSocketTimeout(netlinkTimeout)
	}
	if err != nil {
		err = fmt.Errorf("open a netlink socket: %w", err)
		return kernel{gatewaysErr: err, addressesErr: err}
	}
	var k kernel
	k.addresses, k.addressesErr = readAddresses(h)
	routes, err := readDefaults(h)
	k.gatewaysErr = err
	for _, r := range routes {
		k.gateways = appendGateways(k.gateways, r)
		if r.Flags&(unix.RTNH_F_LINKDOWN|unix.RTNH_F_DEAD) == 0 {
			k.uplinks = append(k.uplinks, r.String())
		}
	}
	return k
}

// readAddresses lists the addresses of every interface, in both families.
func readAddresses(h *netlink.Handle) ([]netip.Addr, error) {
	addrs, err := whole(func() ([]netip.Addr, error) {
		var addrs []netip.Addr
		list, err := h.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range list {
			if a.IPNet != nil {
				addrs = appendIP(addrs, a.IP)
			}
		}
		return addrs, err
	}, netip.Addr.String)
	if err != nil {
		return addrs, fmt.Errorf("list the host's addresses: %w", err)
	}
	return addrs, nil
}

// readDefaults lists the default routes of every table, in both families.
func readDefaults(h *netlink.Handle) ([]netlink.Route, error) {
	var (
		all  []netlink.Route
		errs []error
	)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			var routes []netlink.Route
			// Naming no table, and asking for that, is the library's way to get all of them. One at a
			// time: a router with the whole Internet's routes has a million. The kernel has no filter
			// by destination; 150,000 routes take 0.1 s.
			err := h.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE,
				func(r netlink.Route) bool {
					if isDefault(r) {
						routes = append(routes, r)
					}
					return true
				})
			return routes, err
		}, netlink.Route.String)
		all = append(all, routes...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return all, fmt.Errorf("list the default routes: %w", err)
	}
	return all, nil
}

// isDefault is true for 0.0.0.0/0 and ::/0, and for their halves: VPN clients route 0.0.0.0/1 and 128.0.0.0/1 to outrank
// the default route without touching it.
func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, bits := r.Dst.Mask.Size()
	return bits > 0 && ones <= 1
}

// appendGateways adds the next hops of a route: its own, those of a multipath route, and those of the other family.
func appendGateways(to []netip.Addr, r netlink.Route) []netip.Addr {
	to = appendVia(appendIP(to, r.Gw), r.Via)
	for _, hop := range r.MultiPath {
		if hop != nil {
			to = appendVia(appendIP(to, hop.Gw), hop.Via)
		}
	}
	return to
}

func appendVia(to []netip.Addr, d netlink.Destination) []netip.Addr {
	if via, ok := d.(*netlink.Via); ok && via != nil {
		return appendIP(to, via.Addr)
	}
	return to
}

func appendIP(to []netip.Addr, ip net.IP) []netip.Addr {
	if a, ok := netip.AddrFromSlice(ip); ok {
		return append(to, blocklist.CanonicalAddr(a))
	}
	return to
}

// whole repeats a dump that the kernel calls interrupted, because something changed under it, until
// one is not or two in a row hold the same: on a router whose table changes all the time every dump
// is interrupted, by other routes than are looked for. If neither comes about it returns everything
// that any of them held, with the error: an address too many in the whitelist does less harm than
// one too few.
func whole[T any](dump func() ([]T, error), text func(T) string) ([]T, error) {
	var (
		all    []T
		before string
	)
	for n := range dumpAttempts {
		found, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return append(all, found...), err
		}
		all = append(all, found...)
		texts := make([]string, len(found))
		for i, f := range found {
			texts[i] = text(f)
		}
		slices.Sort(texts)
		now := strings.Join(texts, "\n")
		if n > 0 && now == before {
			return all, nil
		}
		before = now
	}
	return all, netlink.ErrDumpInterrupted
}
