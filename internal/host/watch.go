package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// watchSettle is the time for which changes are combined into one: an interface that comes up
	// causes a handful of them.
	watchSettle = 250 * time.Millisecond
	// watchBuffer is the socket's receive buffer, in bytes. The kernel charges some 1,000 bytes per
	// message.
	watchBuffer = 4 << 20
)

// Watch calls changed once it has subscribed, because the kernel reports no earlier change. After
// that it calls changed when links, addresses or default routes of the host have changed or may
// have. It returns nil when ctx ends, and an error if the kernel stops reporting.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	f, err := subscribe(watchBuffer)
	if err != nil {
		return fmt.Errorf("watch addresses and routes: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	return coalesce(ctx, f, changed)
}

// coalesce calls changed at once, and then once for each burst of changes.
func coalesce(ctx context.Context, f *os.File, changed func()) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	changed()
	buf := make([]byte, 64<<10)
	settling := false
	for {
		_, err := f.Read(buf)
		var deadline time.Time
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			settling = false
			changed()
		// ENOBUFS means that messages were lost. The caller reads the changed state in any case.
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("watch addresses and routes: %w", err)
		case settling:
			continue
		default:
			settling = true
			deadline = time.Now().Add(watchSettle)
		}
		if err := f.SetReadDeadline(deadline); err != nil {
			return fmt.Errorf("watch addresses and routes: %w", err)
		}
		if ctx.Err() != nil { // the deadline above may have replaced the one that ends the read
			return nil
		}
	}
}

// subscribe opens a socket on which the kernel reports changes of links, addresses and default
// routes in the network namespace of the calling thread. The library's subscription is not used: it
// sends every route of a full table to a channel, and ends at the first overrun.
func subscribe(buffer int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	filter := defaultsOnly()
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("filter routes: %w", err), f.Close())
	}
	// SO_RCVBUFFORCE needs CAP_NET_ADMIN in the initial user namespace. Without it the host's limit
	// applies.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	// The link group is needed for a cable that is plugged in: the addresses and routes of the link
	// may exist already, so only the link changes.
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe: %w", err), f.Close())
	}
	return f, nil
}

// defaultsOnly returns a socket filter that drops two kinds of messages and passes all others:
// messages about routes to less than half of the addresses, and messages about a link that concern
// one protocol alone, such as IPv6 or a bridge. A router's full table, a million routes that change
// all day, then costs nothing here and does not overrun the socket.
func defaultsOnly() []unix.SockFilter {
	typeAt := uint32(4) // low byte of nlmsg_type: rtnetlink has no type above 255
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		typeAt++
	}
	const (
		familyAt = unix.SizeofNlMsghdr     // ifi_family of struct ifinfomsg
		dstLenAt = unix.SizeofNlMsghdr + 1 // rtm_dst_len of struct rtmsg
		load     = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		greater  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
		ret      = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: load, K: typeAt},
		{Code: equal, K: unix.RTM_NEWLINK, Jt: 6},
		{Code: equal, K: unix.RTM_NEWROUTE, Jt: 1},
		{Code: equal, K: unix.RTM_DELROUTE, Jf: 2},
		{Code: load, K: dstLenAt},
		{Code: greater, K: 1, Jt: 1}, // same condition as isDefault
		{Code: ret, K: 1 << 16},
		{Code: ret, K: 0},
		{Code: load, K: familyAt},
		{Code: equal, K: unix.AF_UNSPEC, Jf: 1},
		{Code: ret, K: 1 << 16},
		{Code: ret, K: 0},
	}
}
