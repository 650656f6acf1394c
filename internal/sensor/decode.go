package sensor

import (
	"encoding/binary"
	"net/netip"
)

// key is a Key without pointers, so that a table of them costs the garbage collector nothing.
type key struct {
	source    [16]byte // IPv4: the first four bytes
	port      uint16
	countedBy uint16
	proto     Protocol
	kind      Kind
	v6        bool
	alone     bool
}

// Key converts k. An IPv4-mapped source of an IPv6 packet stays an IPv6 address.
func (k key) Key() Key {
	source := netip.AddrFrom16(k.source)
	if !k.v6 {
		source = netip.AddrFrom4([4]byte(k.source[:4]))
	}
	return Key{Source: source, Port: k.port, Protocol: k.proto, Kind: k.kind}
}

// ClientPorts is the first port that Linux gives to clients (net.ipv4.ip_local_port_range).
const ClientPorts = 32768

const (
	header4Len = 20 // RFC 791, without options
	header6Len = 40 // RFC 8200
	portsLen   = 4  // source port and destination port
	flagsAt    = 13 // offset of the flags in a TCP header, RFC 9293
	chunkAt    = 12 // offset of the type of the first chunk in an SCTP packet, RFC 9260
	// anyPorts is the first port that needs no privilege. Resolvers send from any of these.
	anyPorts = 1024
	// maxExtensions is the number of IPv6 extension headers that are read. RFC 8200 allows each
	// once, and one of them twice.
	maxExtensions = 8
)

// IPv6 extension headers: RFC 8200, 4302 (AH, which is also a Protocol), 6275, 7401 and 5533.
const (
	hopByHop     Protocol = 0
	routing      Protocol = 43
	fragment     Protocol = 44
	destinations Protocol = 60
	mobility     Protocol = 135
	hostIdentity Protocol = 139
	shim6        Protocol = 140
)

// decode reads the source, port, protocol and kind of a packet. The packet begins with its IP
// header and may be cut off anywhere. decode fails only if the IP header is incomplete or is not
// one. If the transport header is missing, the port is 0.
func decode(packet []byte) (key, bool) {
	if len(packet) == 0 {
		return key{}, false
	}
	switch packet[0] >> 4 {
	case 4:
		return decode4(packet)
	case 6:
		return decode6(packet)
	default:
		return key{}, false
	}
}

func decode4(b []byte) (key, bool) {
	if len(b) < header4Len {
		return key{}, false
	}
	headerLen := int(b[0]&0x0f) * 4
	if headerLen < header4Len || headerLen > len(b) {
		return key{}, false
	}
	k := key{proto: Protocol(b[9])}
	copy(k.source[:], b[12:16])
	if binary.BigEndian.Uint16(b[6:])&0x1fff == 0 {
		k.read(b[headerLen:])
	} else { // only the first fragment has a transport header
		k.kind = Other
	}
	return k, true
}

func decode6(b []byte) (key, bool) {
	if len(b) < header6Len {
		return key{}, false
	}
	k := key{proto: Protocol(b[6]), kind: Other, v6: true}
	copy(k.source[:], b[8:24])
	b = b[header6Len:]
	for range maxExtensions {
		var headerLen int
		switch k.proto {
		case hopByHop, routing, destinations, mobility, hostIdentity, shim6:
			if len(b) < 2 {
				return k, true
			}
			headerLen = (int(b[1]) + 1) * 8
		case AH:
			if len(b) < 2 {
				return k, true
			}
			headerLen = (int(b[1]) + 2) * 4
		case fragment:
			if len(b) < 4 {
				return k, true
			}
			if binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 { // not the first fragment: no transport header follows
				k.proto = Protocol(b[0])
				return k, true
			}
			headerLen = 8
		default:
			k.read(b)
			return k, true
		}
		k.proto = Protocol(b[0])
		b = b[min(headerLen, len(b)):] // cut off within this header, but the type of the next is known
	}
	k.read(b)
	return k, true
}

// TCP flags.
const fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10

// read reads the transport header, which may be cut off. If the part that shows the kind is
// missing, the kind is Other.
func (k *key) read(header []byte) {
	k.kind = Other
	if k.proto.IsICMP() {
		if len(header) > 0 {
			k.kind = ICMPKind(k.proto, header[0])
		}
		if len(header) > 1 {
			k.countedBy = binary.BigEndian.Uint16(header)
		}
		return
	}
	if !k.proto.HasPorts() || len(header) < portsLen {
		return
	}
	from, to := binary.BigEndian.Uint16(header), binary.BigEndian.Uint16(header[2:])
	k.port, k.countedBy = to, to
	answers := from < ClientPorts && to >= ClientPorts || from < anyPorts && to >= anyPorts
	switch {
	case k.proto == TCP && len(header) > flagsAt:
		if k.kind = tcpKind(header[flagsAt], answers); k.kind != Attempt {
			k.countedBy = from
		}
	case k.proto == SCTP && len(header) > chunkAt:
		k.kind = sctpKind(header[chunkAt])
	case k.proto == TCP, k.proto == SCTP: // cut off
	case answers:
		k.kind = Answer
	case from == to: // as in NTP and IKE, where requests and answers look alike
	default:
		k.kind = Attempt
	}
	if k.kind == Answer {
		k.port = from
	}
}

// tcpKind returns the kind of a segment from its flags. answers is true if it goes from the port of
// a service to the port of a client.
func tcpKind(flags byte, answers bool) Kind {
	switch {
	case flags&(fin|syn|rst|ack) == syn:
		return Attempt
	case flags&(syn|ack) == syn|ack, answers:
		return Answer
	default:
		return Other
	}
}

// sctpKind returns the kind of an SCTP packet from its first chunk (RFC 9260): INIT, INIT ACK, or
// another.
func sctpKind(chunk byte) Kind {
	switch chunk {
	case 1:
		return Attempt
	case 2:
		return Answer
	default:
		return Other
	}
}

// ICMPKind returns the kind of an ICMP message (RFC 792, 950) or ICMPv6 message (RFC 4443) from its
// type.
func ICMPKind(p Protocol, typ byte) Kind {
	switch {
	case p == ICMP && (typ == 8 || typ == 13 || typ == 15 || typ == 17), p == ICMPv6 && typ == 128:
		return Attempt // requests
	case p == ICMP && (typ == 0 || typ == 14 || typ == 16 || typ == 18), p == ICMPv6 && typ == 129:
		return Answer
	default:
		return Other
	}
}
