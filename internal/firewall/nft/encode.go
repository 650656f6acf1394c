package nft

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// encoder encodes the messages of one transaction. The library encodes tables, chains, rules and
// sets. The encoder adds the elements itself: 500,000 of them take the library some 200 ms and
// several million allocations.
type encoder struct {
	table    string // name of the table whose elements it encodes
	buf      []byte
	sequence uint32 // of every message
	last     int    // offset of the last message
	messages int    // without the begin and the end of the transaction
}

func newEncoder(table string, sequence uint32) encoder {
	e := encoder{table: table, sequence: sequence}
	e.message(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	})
	e.messages = 0
	return e
}

// transaction returns the encoded transaction.
func (e *encoder) transaction() []byte {
	flags := e.buf[e.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	e.message(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	})
	return e.buf
}

// message adds m. The kernel answers it only with a refusal.
func (e *encoder) message(m netlink.Message) {
	e.begin(uint16(m.Header.Type), m.Header.Flags&^(netlink.Acknowledge|netlink.Echo))
	e.buf = append(e.buf, m.Data...)
	e.end()
}

// begin adds the header of a message.
func (e *encoder) begin(kind uint16, flags netlink.HeaderFlags) {
	e.last = len(e.buf)
	e.messages++
	// struct nlmsghdr: length, type, flags, sequence number, port.
	e.buf = append(e.buf, 0, 0, 0, 0)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(flags))
	e.buf = binary.NativeEndian.AppendUint32(e.buf, e.sequence)
	e.buf = append(e.buf, 0, 0, 0, 0)
}

// end completes the last message.
func (e *encoder) end() {
	binary.NativeEndian.PutUint32(e.buf[e.last:], uint32(len(e.buf)-e.last))
	e.pad()
}

func (e *encoder) pad() {
	for len(e.buf) != align(len(e.buf)) {
		e.buf = append(e.buf, 0)
	}
}

// align rounds a length up to the alignment of messages and attributes.
func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// attribute adds the header of an attribute whose content has size bytes.
func (e *encoder) attribute(kind uint16, size int) {
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(unix.SizeofNlAttr+size))
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind)
}

// text adds an attribute that holds a string.
func (e *encoder) text(kind uint16, s string) {
	e.attribute(kind, len(s)+1)
	e.buf = append(append(e.buf, s...), 0)
	e.pad()
}

// maxList is the greatest length of a list of elements in one message, in bytes. The list is an
// attribute, whose length has 16 bits.
const maxList = 1<<16 - 1<<8

// grow makes room for the elements of sets, so that the buffer is allocated once.
func (e *encoder) grow(sets []setPlan) {
	size := 0
	for _, s := range sets {
		one := 3*unix.SizeofNlAttr + s.family.width/8
		if s.interval {
			one += one + unix.SizeofNlAttr + 4 // the end of the interval, which has flags
		}
		size += s.count * one
	}
	size += size >> 8 // headers of messages, of some hundred bytes in 64 KiB
	e.buf = slices.Grow(e.buf, size+1<<12)
}

// elements adds messages of one kind with elements of s. They must be in ascending order: the kernel
// fills an interval set more than twice as fast in that order.
func (e *encoder) elements(kind uint16, flags netlink.HeaderFlags, s setPlan, elements iter.Seq[netip.Prefix]) {
	list := -1 // offset of the list in the current message
	finish := func() {
		if list >= 0 {
			binary.NativeEndian.PutUint16(e.buf[list:], uint16(len(e.buf)-list))
			e.end()
		}
	}
	for p := range elements {
		if list < 0 || len(e.buf)-list > maxList { // both ends of an interval go into one message
			finish()
			e.setMessage(kind, flags, s)
			list = len(e.buf)
			e.attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, 0)
		}
		e.element(p.Addr(), false)
		// The end of an interval is the first address after it. An interval that reaches the top of
		// the address space has no end.
		if s.interval {
			if end := netipx.PrefixLastIP(p).Next(); end.IsValid() {
				e.element(end, true)
			}
		}
	}
	finish()
}

// flushSet adds a message that deletes all elements of s.
func (e *encoder) flushSet(s setPlan) {
	e.setMessage(unix.NFT_MSG_DELSETELEM, 0, s)
	e.end()
}

// setMessage begins a message about the elements of s. Without a list of elements it concerns all.
func (e *encoder) setMessage(kind uint16, flags netlink.HeaderFlags, s setPlan) {
	e.begin(unix.NFNL_SUBSYS_NFTABLES<<8|kind, netlink.Request|flags)
	e.buf = append(e.buf, unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0)
	e.setOf(s)
}

// setOf adds the attributes that name the set s.
func (e *encoder) setOf(s setPlan) {
	e.text(unix.NFTA_SET_ELEM_LIST_TABLE, e.table)
	e.text(unix.NFTA_SET_ELEM_LIST_SET, s.kernel)
}

// element adds one element, which is the start or the end of an interval in an interval set.
func (e *encoder) element(a netip.Addr, end bool) {
	const header = unix.SizeofNlAttr
	width, flags := a.BitLen()/8, 0
	if end {
		flags = header + 4
	}
	e.attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, 2*header+width+flags)
	if end {
		e.attribute(unix.NFTA_SET_ELEM_FLAGS, 4)
		e.buf = binary.BigEndian.AppendUint32(e.buf, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	e.attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, header+width)
	e.attribute(unix.NFTA_DATA_VALUE, width)
	if width == 4 {
		raw := a.As4()
		e.buf = append(e.buf, raw[:]...)
	} else {
		raw := a.As16()
		e.buf = append(e.buf, raw[:]...)
	}
}
