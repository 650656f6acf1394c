package iptables

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages and attributes of ipset (linux/netfilter/ipset/ip_set.h). The program ipset prints the
// same elements, but protocols and types of ICMP by names that depend on the host.
const (
	ipsetProtocol = 6 // of the kernel interface; each kernel since 2.6.39 accepts it
	ipsetSave     = 8 // message

	// Attributes of a message.
	ipsetAttrProtocol, ipsetAttrSetName, ipsetAttrData, ipsetAttrADT = 1, 2, 7, 8
	// Attributes of an element.
	ipsetAttrIP, ipsetAttrPort, ipsetAttrProto, ipsetAttrPackets = 1, 4, 7, 25
)

// element is an element of a set with counters.
type element struct {
	source   netip.Addr
	protocol uint8
	port     uint16 // of ICMP: the type and the code
	packets  uint64
}

// setSocket reads sets from the kernel. It opens its socket at the first reading.
type setSocket struct{ conn *netlink.Conn }

// dump calls visit for each element of a set. The error wraps ENOENT if there is no such set.
func (s *setSocket) dump(set string, visit func(element)) (err error) {
	if s.conn == nil {
		if s.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return err
		}
	}
	ae := netlink.NewAttributeEncoder()
	ae.Uint8(ipsetAttrProtocol, ipsetProtocol)
	ae.String(ipsetAttrSetName, set)
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	answer, err := s.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_IPSET<<8 | ipsetSave),
			Flags: netlink.Request | netlink.Acknowledge | netlink.Dump,
		},
		Data: append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		s.close() // a part of the answer may be left
		return err
	}
	for _, m := range answer {
		decodeElements(m.Data, visit)
	}
	return nil
}

// close closes the socket.
func (s *setSocket) close() {
	if s.conn != nil {
		_ = s.conn.Close() // it was only read
		s.conn = nil
	}
}

// decodeElements calls visit for each element in a message.
func decodeElements(message []byte, visit func(element)) {
	const header = 4 // struct nfgenmsg
	if len(message) < header {
		return
	}
	for kind, list := range attributes(message[header:]) {
		if kind != ipsetAttrADT {
			continue
		}
		for kind, data := range attributes(list) {
			if kind != ipsetAttrData {
				continue
			}
			if e := decodeElement(data); e.source.IsValid() {
				visit(e)
			}
		}
	}
}

// decodeElement returns an element. Without an address, it is not one of ours.
func decodeElement(data []byte) (e element) {
	for kind, value := range attributes(data) {
		switch {
		case kind == ipsetAttrIP:
			for _, addr := range attributes(value) {
				e.source, _ = netip.AddrFromSlice(addr)
			}
		case kind == ipsetAttrPort && len(value) == 2:
			e.port = binary.BigEndian.Uint16(value)
		case kind == ipsetAttrProto && len(value) == 1:
			e.protocol = value[0]
		case kind == ipsetAttrPackets && len(value) == 8:
			e.packets = binary.BigEndian.Uint64(value)
		}
	}
	return e
}

// attributes yields the types and the values of netlink attributes, without allocations.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	const header, align, kinds = 4, 4, 0x3fff // struct nlattr, NLA_ALIGNTO, NLA_TYPE_MASK
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= header {
			n := int(binary.NativeEndian.Uint16(b))
			if n < header || n > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&kinds, b[header:n]) {
				return
			}
			b = b[min(len(b), (n+align-1)&^(align-1)):]
		}
	}
}
