package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// bulk is the largest number of frames of one system call.
const bulk = 256

// Kind is a kind of packet.
type Kind int

// Kinds of packets.
const (
	SYN      Kind = iota // TCP connection request to port 22
	Datagram             // UDP datagram to the port of a Sink
)

// mmsghdr is struct mmsghdr of sendmmsg(2), which x/sys/unix lacks.
type mmsghdr struct {
	hdr unix.Msghdr
	_   [8]byte // msg_len and padding
}

// Burst sends a packet of each of its sources over the link to the server, in turn and in bulk. The
// packets go from a packet socket straight to the link, without a queue.
type Burst struct {
	fd   int
	msgs []mmsghdr
	next int
}

// NewBurst returns a sender of one packet of each source.
func (h *Host) NewBurst(kind Kind, sources []netip.Addr) (*Burst, error) {
	b := &Burst{msgs: make([]mmsghdr, len(sources))}
	iovs := make([]unix.Iovec, len(sources))
	for i, src := range sources {
		frame, err := h.frame(kind, src)
		if err != nil {
			return nil, fmt.Errorf("build packet: %w", err)
		}
		iovs[i].Base = &frame[0]
		iovs[i].SetLen(len(frame))
		b.msgs[i].hdr.Iov = &iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	err := h.in(h.outside, func() (err error) {
		if b.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = unix.SetsockoptInt(b.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
		return errors.Join(err, unix.Bind(b.fd, &unix.SockaddrLinklayer{Ifindex: h.index}))
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return b, nil
}

// Close closes the socket.
func (b *Burst) Close() error { return unix.Close(b.fd) }

// Send sends n packets.
func (b *Burst) Send(n int) error {
	for n > 0 {
		most := min(n, bulk, len(b.msgs)-b.next)
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd),
			uintptr(unsafe.Pointer(&b.msgs[b.next])), uintptr(most), 0, 0, 0)
		switch {
		case errno == unix.ENOBUFS || errno == unix.EINTR || errno == unix.EAGAIN:
			continue
		case errno != 0:
			return fmt.Errorf("send packets: %w", errno)
		}
		n -= int(sent)
		b.next = (b.next + int(sent)) % len(b.msgs)
	}
	return nil
}

// Paced sends packets at a rate, in packets a second, for a time. It returns the number sent.
func (b *Burst) Paced(rate int, d time.Duration) (sent int, err error) {
	err = onOwnThread(func() error {
		if err := (CPUs{Sending()}).pin(); err != nil {
			return err
		}
		start := time.Now()
		for total := int(d.Seconds() * float64(rate)); sent < total; {
			due := min(total, int(time.Since(start).Seconds()*float64(rate)))
			if due > sent {
				if err := b.Send(due - sent); err != nil {
					return err
				}
				sent = due
			}
			time.Sleep(500 * time.Microsecond)
		}
		return nil
	})
	return sent, err
}

// frame returns an Ethernet frame to the server.
func (h *Host) frame(kind Kind, src netip.Addr) ([]byte, error) {
	eth := &layers.Ethernet{SrcMAC: h.gatewayMAC, DstMAC: h.mac, EthernetType: layers.EthernetTypeIPv4}
	proto := layers.IPProtocolTCP
	if kind == Datagram {
		proto = layers.IPProtocolUDP
	}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	if src.Is4() {
		ip = &layers.IPv4{
			Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: server4.AsSlice(),
		}
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: server6.AsSlice(),
		}
	}
	all := []gopacket.SerializableLayer{eth, ip}
	if kind == Datagram {
		udp := &layers.UDP{SrcPort: 4000, DstPort: sinkPort}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			return nil, err
		}
		all = append(all, udp, gopacket.Payload("passing"))
	} else {
		tcp := &layers.TCP{SrcPort: 40000, DstPort: 22, Seq: 1, SYN: true, Window: 1024}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			return nil, err
		}
		all = append(all, tcp)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, all...); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
