package sensor

import "strconv"

// Protocol is an IANA protocol number. For IPv6 it is that of the header after the extension
// headers.
type Protocol uint8

// The protocols that have a name here.
const (
	ICMP    Protocol = 1
	IGMP    Protocol = 2
	TCP     Protocol = 6
	UDP     Protocol = 17
	DCCP    Protocol = 33
	GRE     Protocol = 47
	ESP     Protocol = 50
	AH      Protocol = 51
	ICMPv6  Protocol = 58
	SCTP    Protocol = 132
	UDPLite Protocol = 136
)

// String returns the usual name of the protocol, or proto- and its number. A packet that iptables
// counts by source alone has protocol 0.
func (p Protocol) String() string {
	switch p {
	case 0:
		return "unknown"
	case ICMP:
		return "ICMP"
	case IGMP:
		return "IGMP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case DCCP:
		return "DCCP"
	case GRE:
		return "GRE"
	case ESP:
		return "ESP"
	case AH:
		return "AH"
	case ICMPv6:
		return "ICMPv6"
	case SCTP:
		return "SCTP"
	case UDPLite:
		return "UDP-Lite"
	default:
		return "proto-" + strconv.Itoa(int(p))
	}
}

// IsICMP reports whether the header begins with a type and a code of ICMP or ICMPv6.
func (p Protocol) IsICMP() bool { return p == ICMP || p == ICMPv6 }

// HasPorts reports whether the header begins with a source port and a destination port.
func (p Protocol) HasPorts() bool {
	return p == TCP || p == UDP || p == DCCP || p == SCTP || p == UDPLite
}
