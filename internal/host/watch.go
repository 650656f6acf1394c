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
	// watchSettle is how long changes are gathered: an interface that comes up brings a handful of
	// them.
	watchSettle = 250 * time.Millisecond
	// watchBuffer is the socket's receive buffer, in bytes. The kernel counts some 1,000 bytes for
	// a message.
	watchBuffer = 4 << 20
	// filesEvery is how often the files with the resolvers are read. Reading both takes 30 µs.
	filesEvery = 250 * time.Millisecond
)

// Watch calls changed when it has subscribed, since nothing reports a change from before, and then,
// until ctx ends, when links, addresses or default routes of the host have changed or may have. Then
// it returns nil. It fails when the kernel reports no more.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	f, err := subscribe(watchBuffer)
	if err != nil {
		return fmt.Errorf("watch addresses and routes: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	return gather(ctx, f, changed)
}

// gather calls changed at once, and then once for changes that come close together.
func gather(ctx context.Context, f *os.File, changed func()) error {
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
		// ENOBUFS says that messages were lost. A look finds the changes.
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
		if ctx.Err() != nil { // its deadline may just have been replaced
			return nil
		}
	}
}

// subscribe opens a socket that the kernel reports changes of links, addresses and default routes to. It
// belongs to the calling thread's network namespace. The library's subscription is not used: it
// hands every route of a full table to a channel, and ends at the first overrun.
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
	// Forcing needs CAP_NET_ADMIN in the first user namespace; without it the host's limit counts.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	// If a cable is plugged in, a link that has its addresses and routes already changes alone.
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe: %w", err), f.Close())
	}
	return f, nil
}

// defaultsOnly is a socket filter that passes every message but those about routes to less than
// half of the addresses, and those about a link that are of one protocol alone, as of IPv6 or of a
// bridge. A router's full table, a million routes that change all day, then costs nothing here and
// overruns nothing.
func defaultsOnly() []unix.SockFilter {
	typeAt := uint32(4) // the low byte of nlmsg_type: rtnetlink has no type above 255
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		typeAt++
	}
	const (
		familyAt = unix.SizeofNlMsghdr     // of a struct ifinfomsg
		dstLenAt = unix.SizeofNlMsghdr + 1 // of a struct rtmsg
		load     = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		greater  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
		give     = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: load, K: typeAt},
		{Code: equal, K: unix.RTM_NEWLINK, Jt: 6},
		{Code: equal, K: unix.RTM_NEWROUTE, Jt: 1},
		{Code: equal, K: unix.RTM_DELROUTE, Jf: 2},
		{Code: load, K: dstLenAt},
		{Code: greater, K: 1, Jt: 1}, // as isDefault
		{Code: give, K: 1 << 16},
		{Code: give, K: 0},
		{Code: load, K: familyAt},
		{Code: equal, K: unix.AF_UNSPEC, Jf: 1},
		{Code: give, K: 1 << 16},
		{Code: give, K: 0},
	}
}

// WatchFiles calls changed, until ctx ends, while the files with the resolvers hold others than
// Local read last. Then it returns nil. They are read every filesEvery, and twice the same counts:
// a file that is written, replaced, mounted over, or that a link begins to point at looks the same
// that way, and there is no watch to lose.
func (h *Host) WatchFiles(ctx context.Context, changed func()) error {
	t := time.NewTicker(filesEvery)
	defer t.Stop()
	var before *conf // nil before the first reading
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		r := h.files.read()
		h.mu.Lock()
		same := h.conf == nil || r.equal(*h.conf)
		h.mu.Unlock()
		if !same && before != nil && r.equal(*before) { // twice: a file that is being written is not whole
			changed()
		}
		before = &r
	}
}
