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
	// dumpAttempts is the number of attempts at a dump that the kernel reports as interrupted,
	// because routes or addresses changed during it. On a host where containers start and stop all
	// the time, every dump may be interrupted.
	dumpAttempts = 5
	// netlinkTimeout bounds the wait for one message of the kernel, which answers a dump within
	// milliseconds.
	netlinkTimeout = 5 * time.Second
)

// kernel is the result of the netlink queries. Either half may be partly filled beside its error.
type kernel struct {
	gateways     []netip.Addr
	uplinks      []string // default routes that can be used
	gatewaysErr  error
	addresses    []netip.Addr
	addressesErr error
}

// problems returns the errors of both halves. If the kernel returned nothing at all, it returns one
// error with the remedy.
func (k kernel) problems() []error {
	if k.gatewaysErr == nil || k.addressesErr == nil || len(k.gateways)+len(k.addresses) > 0 {
		return nonNil(k.gatewaysErr, k.addressesErr)
	}
	return []error{fmt.Errorf("read the host's addresses and routes: %w; "+
		"until that works, add its gateways and addresses to SIKKER_WHITELIST",
		errors.Join(k.addressesErr, k.gatewaysErr))}
}

// readKernel queries the kernel on a socket of its own, which belongs to the network namespace of
// the calling thread.
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

// readAddresses returns the addresses of every interface, of both families.
func readAddresses(h *netlink.Handle) ([]netip.Addr, error) {
	addrs, err := completeDump(func() ([]netip.Addr, error) {
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

// readDefaults returns the default routes of every table, of both families.
func readDefaults(h *netlink.Handle) ([]netlink.Route, error) {
	var (
		all  []netlink.Route
		errs []error
	)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := completeDump(func() ([]netlink.Route, error) {
			var routes []netlink.Route
			keepDefault := func(r netlink.Route) bool {
				if isDefault(r) {
					routes = append(routes, r)
				}
				return true
			}
			// With RT_TABLE_UNSPEC as filter the library returns the routes of every table. They
			// are read one at a time: a router with the routes of the whole Internet has a million.
			// The kernel has no filter by destination; 150,000 routes take 0.1 s.
			allTables := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
			err := h.RouteListFilteredIter(family, allTables, netlink.RT_FILTER_TABLE, keepDefault)
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

// isDefault reports whether r is a route to 0.0.0.0/0 or ::/0, or to a half of either: VPN clients
// add 0.0.0.0/1 and 128.0.0.0/1 to override the default route without changing it.
func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, bits := r.Dst.Mask.Size()
	return bits > 0 && ones <= 1
}

// appendGateways appends the next hops of a route: its own, those of a multipath route, and those
// of the other family.
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

// completeDump repeats a dump that the kernel reports as interrupted, because something changed
// during it. It stops at a dump that is not interrupted, or when two in a row have the same
// content: on a router whose table changes all the time every dump is interrupted, by routes that
// the caller does not need. If neither happens within dumpAttempts, it returns the content of all
// dumps with the error: one address too many on the allowlist does less harm than one too few.
func completeDump[T any](dump func() ([]T, error), text func(T) string) ([]T, error) {
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
