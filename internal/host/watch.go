package host

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchSettle is how long changes are gathered: an interface that comes up brings a handful of them.
const watchSettle = 500 * time.Millisecond

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
	var settleC <-chan time.Time
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
			if isDefault(u.Route) && settleC == nil {
				settleC = time.After(watchSettle)
			}
		case _, ok := <-addrC:
			if !ok {
				return fmt.Errorf("watch addresses: %w", unix.EPIPE)
			}
			if settleC == nil {
				settleC = time.After(watchSettle)
			}
		case <-settleC:
			settleC = nil
			changed()
		}
	}
}

// drain takes what is still in a channel until its sender closes it, so that the sender ends.
func drain[T any](c <-chan T) {
	for range c { // nothing is to be done with it
	}
}
