package host

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// watchSettle is how long changes are gathered: an interface that comes up brings a handful of them.
	watchSettle = 500 * time.Millisecond
	// watchGap is the shortest time between two calls: a router that advertises itself every few seconds renews the host's
	// addresses each time, and nothing has changed.
	watchGap = 10 * time.Second
)

// Watch calls changed, until ctx ends, when addresses or default routes of the host have changed. Then it returns nil. It
// fails when the kernel tells no more: what was missed meanwhile can be found by Discover.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	stopC := make(chan struct{})
	errC := make(chan error, 2)
	failed := func(err error) {
		select {
		case errC <- err:
		default: // one is enough to end it
		}
	}
	routeC, addrC := make(chan netlink.RouteUpdate, 64), make(chan netlink.AddrUpdate, 64)
	if err := netlink.RouteSubscribeWithOptions(routeC, stopC, netlink.RouteSubscribeOptions{ErrorCallback: failed}); err != nil {
		close(stopC)
		return fmt.Errorf("watch routes: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrC, stopC, netlink.AddrSubscribeOptions{ErrorCallback: failed}); err != nil {
		close(stopC)
		drain(routeC)
		return fmt.Errorf("watch addresses: %w", err)
	}
	err := gather(ctx, routeC, addrC, errC, changed)
	close(stopC) // the library's goroutines close the channels when they have ended
	drain(routeC)
	drain(addrC)
	return err
}

// gather calls changed once for changes that come close together.
func gather(ctx context.Context, routeC <-chan netlink.RouteUpdate, addrC <-chan netlink.AddrUpdate, errC <-chan error, changed func()) error {
	var (
		settleC <-chan time.Time
		last    time.Time
	)
	soon := func() {
		if settleC == nil {
			settleC = time.After(max(watchSettle, watchGap-time.Since(last)))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-errC:
			return fmt.Errorf("watch addresses and routes: %w", err)
		case u, ok := <-routeC:
			if !ok {
				return fmt.Errorf("watch routes: %w", unix.EPIPE)
			}
			if isDefault(u.Route) {
				soon()
			}
		case _, ok := <-addrC:
			if !ok {
				return fmt.Errorf("watch addresses: %w", unix.EPIPE)
			}
			soon()
		case <-settleC:
			settleC, last = nil, time.Now()
			changed()
		}
	}
}

// drain takes what is still in a channel until its sender closes it, so that the sender ends.
func drain[T any](c <-chan T) {
	for range c { // nothing is to be done with it
	}
}
