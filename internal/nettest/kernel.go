package nettest

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table flags of nf_tables, from linux/netfilter/nf_tables.h.
const (
	TableOwner   = 1 << 1 // Linux 5.12
	TablePersist = 1 << 2 // Linux 6.9
)

// TakesTable reports whether the kernel accepts a table with these flags. It shares no code with
// the agent, because tests use it to expect the agent's limitation on a kernel that lacks a
// feature.
func TakesTable(tb testing.TB, flags uint32) bool {
	tb.Helper()
	name := attribute(unix.NFTA_TABLE_NAME, []byte("probe\x00"))
	_, err := request(New(tb),
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		message(nft(unix.NFT_MSG_NEWTABLE), netlink.Create|netlink.Acknowledge, unix.NFPROTO_INET, 0,
			name, attribute(unix.NFTA_TABLE_FLAGS, binary.BigEndian.AppendUint32(nil, flags))),
		message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES))
	switch {
	case err == nil:
		return true
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return false
	default:
		tb.Fatalf("probe table flags %#x: %v", flags, err)
		return false
	}
}

// CountsElements reports whether the kernel returns the number of elements of a set, as it does
// since Linux 6.16.
func CountsElements(tb testing.TB) bool {
	tb.Helper()
	const nftaSetCount = 20 // linux/netfilter/nf_tables.h
	ns := New(tb)
	ns.Run("nft", "add table inet probe; add set inet probe s { type ipv4_addr; size 8; }")
	sets, err := request(ns, message(nft(unix.NFT_MSG_GETSET), netlink.Dump, unix.NFPROTO_INET, 0,
		attribute(unix.NFTA_SET_TABLE, []byte("probe\x00"))))
	if err != nil || len(sets) == 0 {
		tb.Fatalf("list sets: %d answers, %v", len(sets), err)
	}
	attrs, err := netlink.UnmarshalAttributes(sets[0].Data[4:])
	if err != nil {
		tb.Fatalf("decode a set: %v", err)
	}
	for _, a := range attrs {
		if a.Type == nftaSetCount {
			return true
		}
	}
	return false
}

// request sends messages in the namespace and returns the kernel's first answer.
func request(ns *NS, messages ...netlink.Message) (answer []netlink.Message, err error) {
	ns.Do(func() {
		var c *netlink.Conn
		if c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return
		}
		defer func() { _ = c.Close() }() // errors of the request matter, not of the close
		if _, err = c.SendMessages(messages); err == nil {
			answer, err = c.Receive()
		}
	})
	return answer, err
}

// message returns a message of nfnetlink.
func message(
	kind uint16, flags netlink.HeaderFlags, family uint8, resource uint16, attrs ...netlink.Attribute,
) netlink.Message {
	data := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	if len(attrs) > 0 {
		raw, err := netlink.MarshalAttributes(attrs)
		if err != nil {
			panic(err) // the attributes are constants
		}
		data = append(data, raw...)
	}
	header := netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags}
	return netlink.Message{Header: header, Data: data}
}

func attribute(kind uint16, data []byte) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: data}
}

func nft(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }
