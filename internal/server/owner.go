package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY of linux/sock_diag.h
	// sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg of linux/inet_diag.h,
	// in bytes
	diagRequestSize, diagIDAt     = 56, 8
	diagAnswerSize, diagAnswerUID = 72, 64
	diagSourceAt, diagDestAt      = diagIDAt + 4, diagIDAt + 20
	diagCookieAt                  = diagIDAt + 40
	ownerTimeout                  = time.Second // the kernel answers at once
)

// owner returns the user ID of the other end of a connection on loopback. If the kernel does not
// give it, because it has no sock_diag or the other end is closed, owner returns unknownUser.
func owner(conn net.Conn) uint32 {
	uid, err := askOwner(conn)
	if err != nil {
		return unknownUser
	}
	return uid
}

// askOwner asks the kernel for the socket whose own address is the remote address of conn.
func askOwner(conn net.Conn) (uint32, error) {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return 0, err
	}
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return 0, err
	}
	c, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // nothing was written
	if err := c.SetDeadline(time.Now().Add(ownerTimeout)); err != nil {
		return 0, err
	}
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request},
		Data:   diagRequest(remote, local),
	})
	if err != nil {
		return 0, err
	}
	if len(answers) != 1 || len(answers[0].Data) < diagAnswerSize {
		return 0, fmt.Errorf("%w: %d messages", errDiag, len(answers))
	}
	return binary.NativeEndian.Uint32(answers[0].Data[diagAnswerUID:]), nil
}

// errDiag is an answer of sock_diag that is not one socket.
var errDiag = errors.New("the kernel did not answer with one socket")

// diagRequest returns a struct inet_diag_req_v2 that asks for one TCP socket by its own address and
// that of its other end.
func diagRequest(own, other netip.AddrPort) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	if own.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	binary.BigEndian.PutUint16(b[diagIDAt:], own.Port())
	binary.BigEndian.PutUint16(b[diagIDAt+2:], other.Port())
	copy(b[diagSourceAt:], own.Addr().AsSlice())
	copy(b[diagDestAt:], other.Addr().AsSlice())
	binary.NativeEndian.PutUint64(b[diagCookieAt:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}
