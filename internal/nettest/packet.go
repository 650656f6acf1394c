package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sender sends packets with any source address on a link.
type Sender struct {
	tb       testing.TB
	mu       sync.Mutex // guards sa, which the system call writes to, and keeps the order of packets
	fd       int
	sa       unix.SockaddrLinklayer
	src, dst net.HardwareAddr
	opts     gopacket.SerializeOptions
}

// NewSender opens a packet socket on dev in from. Its frames go to dev in to.
func NewSender(tb testing.TB, from, to *NS, dev string) *Sender {
	tb.Helper()
	s := &Sender{tb: tb, fd: -1, opts: gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}}
	var err error
	to.Do(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName(dev); err == nil {
			s.dst = link.Attrs().HardwareAddr
		}
	})
	if err == nil {
		from.Do(func() {
			var link netlink.Link
			if link, err = netlink.LinkByName(dev); err != nil {
				return
			}
			s.src = link.Attrs().HardwareAddr
			s.sa = unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6}
			copy(s.sa.Addr[:], s.dst)
			s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		})
	}
	if err != nil {
		tb.Fatalf("open packet socket on %s: %v", dev, err)
	}
	tb.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

// UDP sends one datagram whose payload is text.
func (s *Sender) UDP(src, dst netip.AddrPort, text string) {
	s.tb.Helper()
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	ip := ipLayer(src.Addr(), dst.Addr(), layers.IPProtocolUDP)
	s.check(udp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	s.send(dst.Addr(), ip, udp, gopacket.Payload(text))
}

// SYN sends one TCP connection request.
func (s *Sender) SYN(src, dst netip.AddrPort) {
	s.tb.Helper()
	tcp := syn(src, dst)
	ip := ipLayer(src.Addr(), dst.Addr(), layers.IPProtocolTCP)
	s.check(tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	s.send(dst.Addr(), ip, tcp)
}

// Answer sends one TCP segment that accepts a connection: SYN with ACK.
func (s *Sender) Answer(src, dst netip.AddrPort) {
	s.tb.Helper()
	tcp := syn(src, dst)
	tcp.ACK = true
	ip := ipLayer(src.Addr(), dst.Addr(), layers.IPProtocolTCP)
	s.check(tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	s.send(dst.Addr(), ip, tcp)
}

// Flood sends n equal TCP connection requests as fast as possible.
func (s *Sender) Flood(src, dst netip.AddrPort, n int) {
	s.tb.Helper()
	tcp := syn(src, dst)
	ip := ipLayer(src.Addr(), dst.Addr(), layers.IPProtocolTCP)
	s.check(tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	s.repeat(n, dst.Addr(), ip, tcp)
}

// FloodFrom sends n TCP connection requests as fast as possible, from each of the sources in turn.
func (s *Sender) FloodFrom(sources []netip.Addr, dst netip.AddrPort, n int) {
	s.tb.Helper()
	frames := make([][]byte, len(sources))
	for i, src := range sources {
		tcp := syn(netip.AddrPortFrom(src, 4000), dst)
		ip := ipLayer(src, dst.Addr(), layers.IPProtocolTCP)
		s.check(tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
		frames[i] = slices.Clone(s.frame(dst.Addr(), ip, tcp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		s.put(frames[i%len(frames)])
	}
}

// Ping sends one ICMP or ICMPv6 echo request.
func (s *Sender) Ping(src, dst netip.Addr) {
	s.tb.Helper()
	if dst.Is4() {
		echo := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 1, Seq: 1}
		s.send(dst, ipLayer(src, dst, layers.IPProtocolICMPv4), echo)
		return
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	ip := ipLayer(src, dst, layers.IPProtocolICMPv6)
	s.check(icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	s.send(dst, ip, icmp, &layers.ICMPv6Echo{Identifier: 1, SeqNumber: 1})
}

// Raw sends packet, of any content, as the payload of an Ethernet frame.
func (s *Sender) Raw(dst netip.Addr, packet []byte) {
	s.tb.Helper()
	s.send(dst, gopacket.Payload(packet))
}

func (s *Sender) check(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Errorf("build packet: %v", err)
	}
}

func (s *Sender) send(dst netip.Addr, ls ...gopacket.SerializableLayer) {
	s.tb.Helper()
	s.repeat(1, dst, ls...)
}

func (s *Sender) repeat(n int, dst netip.Addr, ls ...gopacket.SerializableLayer) {
	s.tb.Helper()
	frame := s.frame(dst, ls...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.put(frame)
	}
}

// frame returns an Ethernet frame with these layers.
func (s *Sender) frame(dst netip.Addr, ls ...gopacket.SerializableLayer) []byte {
	s.tb.Helper()
	eth := &layers.Ethernet{SrcMAC: s.src, DstMAC: s.dst, EthernetType: layers.EthernetTypeIPv4}
	if dst.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	buf := gopacket.NewSerializeBuffer()
	s.check(gopacket.SerializeLayers(buf, s.opts, append([]gopacket.SerializableLayer{eth}, ls...)...))
	return buf.Bytes()
}

// put sends a frame. The caller holds mu.
func (s *Sender) put(frame []byte) {
	s.tb.Helper()
	for {
		err := unix.Sendto(s.fd, frame, 0, &s.sa)
		if err == unix.ENOBUFS || err == unix.EINTR {
			time.Sleep(time.Millisecond) // the device's queue is full
			continue
		}
		if err != nil {
			s.tb.Errorf("send packet: %v", err)
		}
		return
	}
}

// syn returns the header of a TCP connection request.
func syn(src, dst netip.AddrPort) *layers.TCP {
	return &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), SYN: true, Window: 1024,
	}
}

func ipLayer(src, dst netip.Addr, proto layers.IPProtocol) gopacket.SerializableLayer {
	if dst.Is4() {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// Receiver counts the datagrams that arrive at a UDP port, by source.
type Receiver struct {
	conn *net.UDPConn

	mu       sync.Mutex
	received map[netip.Addr]int
	payloads map[string]bool
}

// Listen counts the datagrams to a UDP port of ns, over IPv4 and IPv6, until the test ends.
func Listen(tb testing.TB, ns *NS, port uint16) *Receiver {
	tb.Helper()
	r := &Receiver{received: map[netip.Addr]int{}, payloads: map[string]bool{}}
	var err error
	ns.Do(func() {
		var pc net.PacketConn
		pc, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", port))
		if err == nil {
			r.conn = pc.(*net.UDPConn)
			err = forceReadBuffer(r.conn, 16<<20)
		}
	})
	if err != nil {
		tb.Fatalf("listen on UDP port %d: %v", port, err)
	}
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		r.read()
	}()
	tb.Cleanup(func() {
		_ = r.conn.Close()
		<-doneC
	})
	return r
}

// forceReadBuffer sets the size of the receive buffer, in bytes. Root may exceed net.core.rmem_max.
func forceReadBuffer(c *net.UDPConn, size int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	})
	if err != nil {
		return err
	}
	return serr
}

func (r *Receiver) read() {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.received[from.Addr().Unmap()]++
		r.payloads[string(buf[:n])] = true
		r.mu.Unlock()
	}
}

// Received returns the number of datagrams received from addr.
func (r *Receiver) Received(addr netip.Addr) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.received[addr]
}

// Await waits at most d for a datagram with this payload, and reports whether it has arrived.
// Datagrams of one sender arrive in order, so if a datagram that always passes has arrived, the
// kernel has passed or dropped all earlier ones.
func (r *Receiver) Await(text string, d time.Duration) bool {
	for end := time.Now().Add(d); ; time.Sleep(2 * time.Millisecond) {
		r.mu.Lock()
		ok := r.payloads[text]
		r.mu.Unlock()
		if ok || time.Now().After(end) {
			return ok
		}
	}
}
