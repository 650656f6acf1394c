package sensor

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	source4 = netip.MustParseAddr("203.0.113.7")
	source6 = netip.MustParseAddr("2001:db8:ffff::7")
	cmpAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
)

// ports returns the start of a transport header: from port 4000 to p.
func ports(p uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0x0f, 0xa0}, p) }

// segment returns the start of a TCP header with flags: from port 4000 to p.
func segment(p uint16, flags byte) []byte {
	return append(ports(p), 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags)
}

// packet4 returns an IPv4 packet from source4. The length of options, in bytes, is a multiple of 4.
func packet4(p Protocol, fragmentOffset uint16, options int, payload ...byte) []byte {
	b := make([]byte, header4Len+options, header4Len+options+len(payload))
	b[0] = 0x40 | byte(len(b)/4)
	binary.BigEndian.PutUint16(b[6:], fragmentOffset)
	b[9] = byte(p)
	copy(b[12:], source4.AsSlice())
	return append(b, payload...)
}

// packet6 returns an IPv6 packet from source6.
func packet6(next Protocol, payload ...byte) []byte {
	b := make([]byte, header6Len, header6Len+len(payload))
	b[0], b[6] = 0x60, byte(next)
	copy(b[8:], source6.AsSlice())
	return append(b, payload...)
}

// extension returns an IPv6 extension header of 8 bytes. For a fragment header, bytes 2 and 3 are
// fragmentField.
func extension(next Protocol, fragmentField uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{byte(next), 0}, fragmentField)[:4:4]
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// pad extends a header to 8 bytes.
func pad(b []byte) []byte { return append(b, make([]byte, 8-len(b))...) }

// TestCountedBy checks the part of a packet by which rules that count by port distinguish it.
func TestCountedBy(t *testing.T) {
	t.Parallel()
	answer := join([]byte{0x01, 0xbb, 0x9c, 0x40}, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0x50, syn | ack}) // from 443 to 40000
	for name, tt := range map[string]struct {
		packet []byte
		want   uint16
	}{
		"SYN":                        {packet4(TCP, 0, 0, segment(23, syn)...), 23},
		"SYN with ACK":               {packet4(TCP, 0, 0, answer...), 443},
		"a later segment":            {packet4(TCP, 0, 0, segment(23, ack)...), 4000},
		"UDP":                        {packet6(UDP, ports(53)...), 53},
		"a reply by UDP":             {packet4(UDP, 0, 0, 0, 53, 0x9c, 0x40), 40000},
		"SCTP INIT ACK":              {packet4(SCTP, 0, 0, join(ports(36412), make([]byte, 8), []byte{2})...), 36412},
		"echo request":               {packet4(ICMP, 0, 0, 8, 0, 1, 2), 8 << 8},
		"ICMPv6 echo reply":          {packet6(ICMPv6, 129, 0), 129 << 8},
		"a later fragment":           {packet4(UDP, 0x2001, 0, ports(53)...), 0},
		"a protocol without ports":   {packet4(GRE, 0, 0, ports(53)...), 0},
		"a transport header cut off": {packet4(ICMP, 0, 0, 8), 0},
	} {
		if k, ok := decode(tt.packet); !ok || k.countedBy != tt.want {
			t.Errorf("%s: got %d, %v; want %d", name, k.countedBy, ok, tt.want)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	mapped := packet6(UDP, ports(53)...)
	copy(mapped[8:], netip.MustParseAddr("::ffff:203.0.113.7").AsSlice())
	hop := func(next Protocol) []byte { return pad(extension(next, 0)) }
	eight := join(hop(60), hop(60), hop(60), hop(60), hop(60), hop(60), hop(60))
	tests := []struct {
		name   string
		packet []byte
		want   Key
		bad    bool
	}{
		{name: "bad empty", packet: nil, bad: true},
		{name: "bad version", packet: append([]byte{0x50}, make([]byte, 60)...), bad: true},
		{name: "bad IPv4 header cut off", packet: packet4(TCP, 0, 0)[:19], bad: true},
		{name: "bad IPv4 options cut off", packet: packet4(TCP, 0, 8)[:27], bad: true},
		{name: "bad IPv4 header length under 20", packet: append([]byte{0x44}, packet4(TCP, 0, 0)[1:]...), bad: true},
		{name: "bad IPv6 header cut off", packet: packet6(TCP)[:39], bad: true},

		{name: "OK IPv4 TCP", packet: packet4(TCP, 0, 0, segment(23, syn)...), want: Key{source4, 23, TCP, Attempt}},
		{name: "OK IPv4 all options", packet: packet4(UDP, 0, 40, ports(53)...), want: Key{source4, 53, UDP, Attempt}},
		{
			name: "OK IPv4 first fragment", packet: packet4(TCP, 0x2000, 0, segment(23, syn)...),
			want: Key{source4, 23, TCP, Attempt},
		},
		{
			name: "OK IPv4 do not fragment", packet: packet4(TCP, 0x4000, 0, segment(23, syn)...),
			want: Key{source4, 23, TCP, Attempt},
		},
		{
			name: "OK IPv4 later fragment has no port", packet: packet4(TCP, 0x2001, 0, ports(23)...),
			want: Key{source4, 0, TCP, Other},
		},
		{
			name: "OK IPv4 last fragment has no port", packet: packet4(UDP, 0x1fff, 0, ports(23)...),
			want: Key{source4, 0, UDP, Other},
		},
		{
			name:   "OK IPv4 ports cut off",
			packet: packet4(TCP, 0, 0, ports(23)[:3]...), want: Key{source4, 0, TCP, Other},
		},
		{name: "OK IPv4 header only", packet: packet4(SCTP, 0, 0), want: Key{source4, 0, SCTP, Other}},
		{
			name: "OK IPv4 ICMP has no port", packet: packet4(ICMP, 0, 0, ports(23)...),
			want: Key{source4, 0, ICMP, Attempt},
		},
		{name: "OK IPv4 GRE has no port", packet: packet4(GRE, 0, 0, ports(23)...), want: Key{source4, 0, GRE, Other}},
		{name: "OK IPv4 DCCP", packet: packet4(DCCP, 0, 0, ports(5001)...), want: Key{source4, 5001, DCCP, Attempt}},
		{name: "OK IPv4 SCTP", packet: packet4(SCTP, 0, 0, ports(36412)...), want: Key{source4, 36412, SCTP, Other}},
		{
			name: "OK IPv4 UDP-Lite", packet: packet4(UDPLite, 0, 0, ports(5004)...),
			want: Key{source4, 5004, UDPLite, Attempt},
		},

		{name: "OK IPv6 TCP", packet: packet6(TCP, segment(23, syn)...), want: Key{source6, 23, TCP, Attempt}},
		{
			name: "OK IPv6 ICMPv6 has no port", packet: packet6(ICMPv6, ports(23)...),
			want: Key{source6, 0, ICMPv6, Other},
		},
		{
			name: "OK IPv6 mapped source stays IPv6", packet: mapped,
			want: Key{netip.MustParseAddr("::ffff:203.0.113.7"), 53, UDP, Attempt},
		},
		{
			name:   "OK IPv6 hop-by-hop, routing and destination options",
			packet: packet6(0, join(hop(43), hop(60), hop(TCP), segment(22, syn))...), want: Key{
				source6, 22, TCP, Attempt,
			},
		},
		{
			name:   "OK IPv6 mobility, host identity and shim6",
			packet: packet6(135, join(hop(139), hop(140), hop(UDP), ports(53))...),
			want:   Key{source6, 53, UDP, Attempt},
		},
		{
			name:   "OK IPv6 longer extension",
			packet: packet6(60, join([]byte{byte(TCP), 2}, make([]byte, 22), segment(22, syn))...), want: Key{
				source6, 22, TCP, Attempt,
			},
		},
		{
			name:   "OK IPv6 AH counts in units of four",
			packet: packet6(AH, join([]byte{byte(TCP), 4}, make([]byte, 22), segment(22, syn))...), want: Key{
				source6, 22, TCP, Attempt,
			},
		},
		{
			name: "OK IPv6 first fragment", packet: packet6(44, join(pad(extension(UDP, 1)), ports(53))...),
			want: Key{source6, 53, UDP, Attempt},
		},
		{
			name: "OK IPv6 later fragment has no port", packet: packet6(44, join(pad(extension(UDP, 8)), ports(53))...),
			want: Key{source6, 0, UDP, Other},
		},
		{
			name:   "OK IPv6 later fragment is not read",
			packet: packet6(44, join(pad(extension(60, 9)), hop(TCP), ports(53))...), want: Key{source6, 0, 60, Other},
		},
		{
			name: "OK IPv6 fragment header cut off", packet: packet6(44, extension(UDP, 8)[:3]...),
			want: Key{source6, 0, 44, Other},
		},
		{name: "OK IPv6 AH cut off", packet: packet6(AH, 6), want: Key{source6, 0, AH, Other}},
		{name: "OK IPv6 extension cut off", packet: packet6(60, 6), want: Key{source6, 0, 60, Other}},
		{
			name: "OK IPv6 cut off within an extension", packet: packet6(60, byte(TCP), 1, 0, 0),
			want: Key{source6, 0, TCP, Other},
		},
		{
			name: "OK IPv6 eight extensions", packet: packet6(0, join(eight, hop(TCP), segment(22, syn))...),
			want: Key{source6, 22, TCP, Attempt},
		},
		{
			name:   "OK IPv6 ninth extension is not read",
			packet: packet6(0, join(eight, hop(60), hop(TCP), ports(22))...), want: Key{source6, 0, 60, Other},
		},
		{
			name: "OK TCP SYN with congestion notification", packet: packet4(TCP, 0, 0, segment(23, syn|0xc0)...),
			want: Key{source4, 23, TCP, Attempt},
		},
		{
			name: "OK TCP SYN and ACK answers", packet: packet4(TCP, 0, 0, segment(23, syn|ack)...),
			want: Key{source4, 4000, TCP, Answer},
		},
		{
			name: "OK TCP ACK from a service answers", packet: packet4(TCP, 0, 0, segment(40000, ack)...),
			want: Key{source4, 4000, TCP, Answer},
		},
		{
			name: "OK TCP RST from a service answers", packet: packet6(TCP, segment(40000, rst)...),
			want: Key{source6, 4000, TCP, Answer},
		},
		{
			name: "OK TCP ACK to a service is neither", packet: packet4(TCP, 0, 0, segment(23, ack)...),
			want: Key{source4, 23, TCP, Other},
		},
		{
			name: "OK TCP SYN to a client's port is an attempt", packet: packet4(TCP, 0, 0, segment(40000, syn)...),
			want: Key{source4, 40000, TCP, Attempt},
		},
		{
			name: "OK TCP flags cut off", packet: packet4(TCP, 0, 0, segment(23, syn)[:13]...),
			want: Key{source4, 23, TCP, Other},
		},
		{
			name: "OK UDP from a service to a client answers", packet: packet4(UDP, 0, 0, ports(40000)...),
			want: Key{source4, 4000, UDP, Answer},
		},
		{
			name: "OK UDP from port 53 to a resolver's port answers", packet: packet4(UDP, 0, 0, 0, 53, 0x13, 0x88),
			want: Key{source4, 53, UDP, Answer},
		},
		{
			name: "OK UDP between equal ports is neither", packet: packet4(UDP, 0, 0, 0, 123, 0, 123),
			want: Key{source4, 123, UDP, Other},
		},
		{
			name: "OK UDP between clients' ports is an attempt", packet: packet4(UDP, 0, 0, 0x9c, 0x40, 0xca, 0x6c),
			want: Key{source4, 51820, UDP, Attempt},
		},
		{
			name: "OK SCTP INIT", packet: packet4(SCTP, 0, 0, join(ports(36412), make([]byte, 8), []byte{1})...),
			want: Key{source4, 36412, SCTP, Attempt},
		},
		{
			name: "OK SCTP INIT ACK", packet: packet4(SCTP, 0, 0, join(ports(36412), make([]byte, 8), []byte{2})...),
			want: Key{source4, 4000, SCTP, Answer},
		},
		{name: "OK ICMP echo request", packet: packet4(ICMP, 0, 0, 8, 0), want: Key{source4, 0, ICMP, Attempt}},
		{name: "OK ICMP echo reply", packet: packet4(ICMP, 0, 0, 0, 0), want: Key{source4, 0, ICMP, Answer}},
		{name: "OK ICMP error", packet: packet4(ICMP, 0, 0, 3, 1), want: Key{source4, 0, ICMP, Other}},
		{name: "OK ICMPv6 echo request", packet: packet6(ICMPv6, 128, 0), want: Key{source6, 0, ICMPv6, Attempt}},
		{name: "OK ICMPv6 echo reply", packet: packet6(ICMPv6, 129, 0), want: Key{source6, 0, ICMPv6, Answer}},
		{
			name: "OK ICMPv6 neighbour solicitation", packet: packet6(ICMPv6, 135, 0),
			want: Key{source6, 0, ICMPv6, Other},
		},
		{name: "OK IPv6 no next header", packet: packet6(59, ports(22)...), want: Key{source6, 0, 59, Other}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, ok := decode(tt.packet)
			if ok == tt.bad {
				t.Fatalf("decode: got %v, want %v", ok, !tt.bad)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff(tt.want, k.Key(), cmpAddr); diff != "" {
				t.Errorf("key (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProtocolString(t *testing.T) {
	t.Parallel()
	want := map[Protocol]string{
		ICMP: "ICMP", IGMP: "IGMP", TCP: "TCP", UDP: "UDP", DCCP: "DCCP", GRE: "GRE", ESP: "ESP", AH: "AH",
		ICMPv6: "ICMPv6",
		SCTP:   "SCTP", UDPLite: "UDP-Lite", 0: "unknown", 89: "proto-89", 255: "proto-255",
	}
	for p, s := range want {
		if got := p.String(); got != s {
			t.Errorf("protocol %d: got %q, want %q", uint8(p), got, s)
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) { // not parallel: AllocsPerRun counts the whole program
	for name, p := range benchPackets() {
		if n := testing.AllocsPerRun(1000, func() {
			if _, ok := decode(p); !ok {
				t.Errorf("%s: not decoded", name)
			}
		}); n != 0 {
			t.Errorf("%s: got %v allocations a packet, want 0", name, n)
		}
	}
}

// benchPackets returns packets whose ports are near the start and far from it.
func benchPackets() map[string][]byte {
	hop := func(next Protocol) []byte { return pad(extension(next, 0)) }
	return map[string][]byte{
		"IPv4":              packet4(TCP, 0, 0, ports(23)...),
		"IPv6":              packet6(UDP, ports(53)...),
		"IPv6_4_extensions": packet6(0, join(hop(43), hop(60), hop(44), hop(TCP), ports(22))...),
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, p := range benchPackets() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if k, ok := decode(p); !ok || k.port == 0 {
					b.Fatalf("got port %d, %v", k.port, ok)
				}
			}
		})
	}
}

// FuzzDecode checks properties that hold for all bytes. decode fails only if the IP header is
// incomplete. The source is that of the header and does not depend on where the packet is cut off.
// If a cut packet has a port or a kind, it is the same as in the whole packet. Only protocols with
// ports have one.
func FuzzDecode(f *testing.F) {
	for _, p := range benchPackets() {
		f.Add(p)
	}
	f.Add(packet4(TCP, 1, 40))
	f.Add(packet6(AH, 44, 255))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, ok := decode(b)
		whole := len(b) >= 20 && b[0]>>4 == 4 && b[0]&0xf >= 5 && len(b) >= int(b[0]&0xf)*4 ||
			len(b) >= 40 && b[0]>>4 == 6
		if ok != whole {
			t.Fatalf("decode: got %v, want %v", ok, whole)
		}
		if !ok {
			if k != (key{}) {
				t.Fatalf("refused with key %+v", k)
			}
			return
		}
		got := k.Key()
		field := b[12:16]
		if b[0]>>4 == 6 {
			field = b[8:24]
		}
		if want, _ := netip.AddrFromSlice(field); got.Source != want || !got.Source.IsValid() {
			t.Fatalf("source: got %v, want %v", got.Source, want)
		}
		if got.Port != 0 && !got.Protocol.HasPorts() {
			t.Fatalf("%v has port %d", got.Protocol, got.Port)
		}
		for n := range b {
			if cut, ok := decode(b[:n]); ok && cut.Key().Source != got.Source || ok && cut.kind != Other && cut != k {
				t.Fatalf("first %d bytes: got %+v, want a part of %+v", n, cut.Key(), got)
			}
		}
	})
}

// FuzzDecodeAgrees compares decode with gopacket on well-formed packets that gopacket builds and
// decodes.
func FuzzDecodeAgrees(f *testing.F) {
	f.Add(false, byte(0), uint16(23), uint16(0), byte(0), byte(2), []byte{203, 0, 113, 7})
	f.Add(true, byte(1), uint16(53), uint16(0), byte(0x1b), byte(0), []byte{0x20, 1, 0xd, 0xb8, 15: 7})
	f.Add(true, byte(2), uint16(1), uint16(3), byte(2), byte(0), []byte{15: 1})
	f.Add(false, byte(3), uint16(1), uint16(0x1fff), byte(0), byte(10), []byte{1, 2, 3, 4})
	f.Add(false, byte(0), uint16(40000), uint16(0), byte(0), byte(3), []byte{1, 2, 3, 4})
	f.Add(false, byte(1), uint16(40000), uint16(0), byte(0), byte(0), []byte{1, 2, 3, 4})
	f.Add(true, byte(4), uint16(9), uint16(0), byte(0xff), byte(0), []byte{})
	f.Fuzz(func(t *testing.T, v6 bool, transport byte, dst, offset uint16, extensions, options byte, from []byte) {
		source := make([]byte, map[bool]int{false: 4, true: 16}[v6])
		copy(source, from)
		ls := build(v6, transport, dst, offset&0x1fff, extensions, options, source)
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ls...); err != nil {
			t.Fatalf("build packet: %v", err)
		}
		k, ok := decode(buf.Bytes())
		if !ok {
			t.Fatalf("not decoded: %x", buf.Bytes())
		}
		if diff := cmp.Diff(reference(t, v6, buf.Bytes()), k.Key(), cmpAddr); diff != "" {
			t.Errorf("key (-gopacket +got):\n%s\n%x", diff, buf.Bytes())
		}
	})
}

// build returns the layers of a packet. Each two bits of extensions select an IPv6 extension
// header.
func build(
	v6 bool, transport byte, dst, offset uint16, extensions, options byte, source []byte,
) []gopacket.SerializableLayer {
	var (
		proto layers.IPProtocol
		top   gopacket.SerializableLayer
	)
	switch transport % 5 {
	case 0:
		proto, top = layers.IPProtocolTCP, &layers.TCP{
			SrcPort: 4000, DstPort: layers.TCPPort(dst), SYN: options&1 == 0, ACK: options&2 != 0,
		}
	case 1:
		proto, top = layers.IPProtocolUDP, &layers.UDP{SrcPort: 4000, DstPort: layers.UDPPort(dst)}
	case 2:
		proto, top = layers.IPProtocolSCTP, &layers.SCTP{SrcPort: 4000, DstPort: layers.SCTPPort(dst)}
	case 3:
		proto, top = layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: dst}
	default:
		proto, top = layers.IPProtocolGRE, &layers.GRE{Protocol: layers.EthernetType(dst)}
	}
	if !v6 {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, FragOffset: offset, SrcIP: source, DstIP: source}
		for range int(options) % 41 {
			ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 1})
		}
		return []gopacket.SerializableLayer{ip, top}
	}
	ls := []gopacket.SerializableLayer{top}
	for i := range 4 {
		switch extensions >> (2 * i) & 3 {
		case 1:
			d := &layers.IPv6Destination{
				Options: []*layers.IPv6DestinationOption{{OptionType: 1, OptionData: make([]byte, 4)}},
			}
			d.NextHeader = proto
			ls, proto = append([]gopacket.SerializableLayer{d}, ls...), layers.IPProtocolIPv6Destination
		case 2:
			h := &layers.IPv6Fragment{NextHeader: proto, FragmentOffset: offset}
			ls, proto = append([]gopacket.SerializableLayer{h}, ls...), layers.IPProtocolIPv6Fragment
		case 3: // an authentication header, which gopacket can decode but not build
			ah := gopacket.Payload(append([]byte{byte(proto), 2}, make([]byte, 14)...))
			ls, proto = append([]gopacket.SerializableLayer{ah}, ls...), layers.IPProtocolAH
		}
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: source, DstIP: source}
	return append([]gopacket.SerializableLayer{ip}, ls...)
}

// reference returns the key from the layers of gopacket. gopacket does not decode after a fragment
// header, so for a first fragment the rest is decoded separately.
func reference(t *testing.T, v6 bool, packet []byte) Key {
	t.Helper()
	first := layers.LayerTypeIPv4
	if v6 {
		first = layers.LayerTypeIPv6
	}
	k := Key{Kind: Other}
	ports := func(from, to uint16, kind Kind) {
		k.Port, k.Kind = to, kind
		if kind != Attempt && (from < 32768 && to >= 32768 || from < 1024 && to >= 1024) {
			k.Kind = Answer
		}
		if k.Kind == Answer {
			k.Port = from
		}
	}
	var read func(data []byte, d gopacket.Decoder)
	read = func(data []byte, d gopacket.Decoder) {
		for _, l := range gopacket.NewPacket(data, d, gopacket.NoCopy).Layers() {
			switch l := l.(type) {
			case *layers.IPv4:
				k.Source, _ = netip.AddrFromSlice(l.SrcIP)
				k.Protocol = Protocol(l.Protocol)
			case *layers.IPv6:
				k.Source, _ = netip.AddrFromSlice(l.SrcIP)
				k.Protocol = Protocol(l.NextHeader)
			case *layers.IPv6Destination:
				k.Protocol = Protocol(l.NextHeader)
			case *layers.IPSecAH:
				k.Protocol = Protocol(l.NextHeader)
			case *layers.IPv6Fragment:
				k.Protocol = Protocol(l.NextHeader)
				if l.FragmentOffset == 0 {
					read(l.LayerPayload(), l.NextHeader)
				}
			case *layers.TCP:
				kind := Other
				if l.SYN {
					kind = map[bool]Kind{false: Attempt, true: Answer}[l.ACK]
				}
				ports(uint16(l.SrcPort), uint16(l.DstPort), kind)
			case *layers.UDP:
				ports(uint16(l.SrcPort), uint16(l.DstPort), Other)
				if k.Kind == Other && uint16(l.SrcPort) != uint16(l.DstPort) {
					k.Kind = Attempt
				}
			case *layers.SCTP:
				k.Port = uint16(l.DstPort)
			case *layers.ICMPv4:
				if l.TypeCode.Type() == layers.ICMPv4TypeEchoRequest {
					k.Kind = Attempt
				}
			}
		}
	}
	read(packet, first)
	return k
}
