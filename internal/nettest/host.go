package nettest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// recvPort is the UDP port at which a Host counts datagrams.
const recvPort = 9

var (
	server4 = netip.MustParseAddr("192.0.2.1")
	server6 = netip.MustParseAddr("2001:db8::1")
	friend  = netip.MustParseAddr("192.0.2.99")   // never on a list
	friend6 = netip.MustParseAddr("2001:db8::99") // used only before a test has rules
)

// Host is a server, with an attacker that can send to it from any source address.
type Host struct {
	*NS
	Sender *Sender
	Recv   *Receiver
	probes int
}

// NewHost returns a server with the addresses 192.0.2.1 and 2001:db8::1, and its attacker.
func NewHost(tb testing.TB) *Host {
	tb.Helper()
	server, attacker := New(tb), New(tb)
	Link(server, attacker, "sg0",
		[]netip.Prefix{netip.PrefixFrom(server4, 24), netip.PrefixFrom(server6, 64)},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	server.DefaultRoute("sg0")
	h := &Host{NS: server, Sender: NewSender(tb, attacker, server, "sg0"), Recv: Listen(tb, server, recvPort)}
	h.awaitIPv6()
	return h
}

// awaitIPv6 waits until datagrams over IPv6 arrive: the kernel adds the routes some time after the
// link comes up.
func (h *Host) awaitIPv6() {
	h.tb.Helper()
	const text = "IPv6 is up"
	for end := time.Now().Add(10 * time.Second); ; {
		h.Send(friend6, text)
		if h.Recv.Await(text, 20*time.Millisecond) {
			return
		}
		if time.Now().After(end) {
			h.tb.Fatal("no datagram over IPv6 arrives")
		}
	}
}

// Send sends one datagram from src.
func (h *Host) Send(src netip.Addr, text string) {
	dst := server4
	if src.Is6() {
		dst = server6
	}
	h.Sender.UDP(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(dst, recvPort), text)
}

// Settle waits until the kernel has passed or dropped every packet sent before.
func (h *Host) Settle() {
	h.tb.Helper()
	h.probes++
	text := fmt.Sprintf("settle %d", h.probes)
	h.Send(friend, text)
	if !h.Recv.Await(text, 10*time.Second) {
		h.tb.Fatal("a datagram from an unlisted source did not get through")
	}
}

// Check sends one packet from each source, and fails the test for each blocked source that gets
// through and each open source that does not.
func (h *Host) Check(when string, blocked, open []netip.Addr) {
	h.tb.Helper()
	before := map[netip.Addr]int{}
	for _, a := range slices.Concat(blocked, open) {
		before[a] = h.Recv.Received(a)
		h.Send(a, "knock")
	}
	h.Settle()
	for _, a := range blocked {
		if n := h.Recv.Received(a) - before[a]; n != 0 {
			h.tb.Errorf("%s: %v is listed and got through", when, a)
		}
	}
	for _, a := range open {
		if n := h.Recv.Received(a) - before[a]; n != 1 {
			h.tb.Errorf("%s: %v is not listed and %d of 1 packets got through", when, a, n)
		}
	}
}

// Flood is a stream of packets that continues until it is stopped.
type Flood struct {
	sent  atomic.Int64
	stopC chan struct{}
	doneC chan struct{}
}

// Flood sends packets from the sources in turn until the Flood is stopped. With -short, which is
// for emulated processors, it sends a sixteenth of the packets: everything else takes that much
// longer there, and needs the processor.
func (h *Host) Flood(sources []netip.Addr) *Flood {
	f := &Flood{stopC: make(chan struct{}), doneC: make(chan struct{})}
	burst := 64 // at most some 25,000 packets per second
	if testing.Short() {
		burst = 4
	}
	go func() {
		defer close(f.doneC)
		for i := 0; ; i++ {
			select {
			case <-f.stopC:
				return
			default:
			}
			h.Send(sources[i%len(sources)], "flood")
			f.sent.Add(1)
			if i%burst == burst-1 {
				time.Sleep(2 * time.Millisecond)
			}
		}
	}()
	return f
}

// Await waits until n more packets have been sent.
func (f *Flood) Await(n int64) {
	for until := f.sent.Load() + n; f.sent.Load() < until; {
		time.Sleep(time.Millisecond)
	}
}

// Stop stops the stream and returns the number of packets sent.
func (f *Flood) Stop() int {
	close(f.stopC)
	<-f.doneC
	return int(f.sent.Load())
}

// Under runs change while packets come from blocked and from open sources: before, during and after
// change. It fails the test if a packet of a blocked source gets through, or one of an open source
// does not. Either list may be nil.
func (h *Host) Under(blocked, open []netip.Addr, change func()) {
	h.tb.Helper()
	before := map[netip.Addr]int{}
	for _, a := range slices.Concat(blocked, open) {
		before[a] = h.Recv.Received(a)
	}
	var sent [2]int
	func() {
		for i, sources := range [][]netip.Addr{blocked, open} {
			if len(sources) > 0 {
				f := h.Flood(sources)
				defer func() { // change may end the test
					f.Await(256)
					sent[i] = f.Stop()
				}()
				f.Await(256)
			}
		}
		change()
	}()
	h.Settle()
	for _, a := range blocked {
		if n := h.Recv.Received(a) - before[a]; n != 0 {
			h.tb.Errorf("%d packets from %v got through during the change", n, a)
		}
	}
	got := 0
	for _, a := range open {
		got += h.Recv.Received(a) - before[a]
	}
	if got != sent[1] {
		h.tb.Errorf("%d of %d packets from unlisted sources got through during the change", got, sent[1])
	}
	h.tb.Logf("during the change: %d packets from listed sources, %d from unlisted ones", sent[0], sent[1])
}

// Addrs parses addresses.
func Addrs(ss ...string) []netip.Addr {
	var as []netip.Addr
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}
