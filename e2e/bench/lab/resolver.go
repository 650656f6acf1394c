package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// linkTimeout is the longest wait for a new link.
const linkTimeout = 10 * time.Second

// Resolver is the address of the resolver of every Host.
func Resolver() netip.Addr { return gateway4 }

// serveNames answers every DNS question with "no such name", until the socket is closed. The agent
// probes its resolvers before and after each change of the list.
func (h *Host) serveNames() (net.PacketConn, error) {
	var conn net.PacketConn
	err := h.in(h.outside, func() (err error) {
		conn, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", ":53")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the resolver: %w", err)
	}
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			const headerLen, response, recursion, noName = 12, 0x80, 0x80, 3
			if n < headerLen {
				continue
			}
			buf[2] |= response
			buf[3] = recursion | noName
			_, _ = conn.WriteTo(buf[:n], from) // the agent asks again
		}
	}()
	return conn, nil
}

// awaitNames waits until the resolver answers over IPv6: the kernel adds the routes of a new link
// some time after it comes up.
func (h *Host) awaitNames() error {
	return h.Do(func() error {
		ask := make([]byte, 12) // a header without a question
		for end := time.Now().Add(linkTimeout); ; {
			conn, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway6, 53)))
			if err == nil {
				_ = conn.SetDeadline(time.Now().Add(50 * time.Millisecond)) // the next attempt follows
				_, err = conn.Write(ask)
				if err == nil {
					_, err = conn.Read(ask)
				}
				_ = conn.Close()
			}
			if err == nil || time.Now().After(end) {
				return err
			}
		}
	})
}
