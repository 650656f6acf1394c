package sensor

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Reasons why a group cannot be opened.
var (
	ErrGroupTaken  = errors.New("another program listens on this NFLOG group")
	ErrPermission  = errors.New("no permission to use NFLOG: run as root with CAP_NET_ADMIN")
	ErrUnsupported = errors.New("the kernel has no NFLOG: load the module nfnetlink_log")
)

// Message types of nfnetlink's subsystem ULOG (4), from linux/netfilter/nfnetlink_log.h.
const (
	messagePacket = unix.NFNL_SUBSYS_ULOG << 8 // sent by the kernel only; the kernel refuses to receive one
	messageConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1
)

// diagnose asks the kernel why a group cannot be bound, and returns nil if the kernel gives no
// reason. It is needed because the library keeps only the text of an error, and a missing
// capability and a taken group have the same number, EPERM. Both requests change nothing: the
// kernel refuses a packet message, and a configuration message without a command configures
// nothing. They use a separate socket, where no event of the group can be mistaken for an answer.
func diagnose(group uint16) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return reason(err, nil)
	}
	err = reason(ask(c, messagePacket, group), ask(c, messageConfig, group))
	return errors.Join(err, c.Close())
}

// ask sends a message about a group, without attributes, and returns the answer of the kernel.
func ask(c *netlink.Conn, t netlink.HeaderType, group uint16) error {
	_, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: t, Flags: netlink.Request | netlink.Acknowledge},
		// struct nfgenmsg: no family, version 0, and the group
		Data: binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, group),
	})
	return err
}

// reason returns the error that the answers to a packet message and a configuration message show.
// The kernel checks in this order: whether nfnetlink exists (EPROTONOSUPPORT), whether the caller
// may use it at all (EPERM), whether the subsystem exists (EINVAL), and then, for a configuration
// message only, whether another socket has the group (EPERM).
func reason(packet, config error) error {
	switch {
	case errors.Is(packet, unix.EPERM):
		return ErrPermission
	case errors.Is(packet, unix.EPROTONOSUPPORT), errors.Is(packet, unix.EINVAL):
		return fmt.Errorf("%w (%w)", ErrUnsupported, packet)
	case errors.Is(config, unix.EPERM):
		return ErrGroupTaken
	default:
		return nil
	}
}
