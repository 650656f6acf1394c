//go:build e2e_soak

package soak

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// kind is the promise about a source.
type kind int

const (
	listed kind = iota // on every list
	free               // on no list
	needed             // on every list, and this host needs it
)

// packet is one datagram.
type packet struct {
	at  time.Time
	got bool
}

// source sends packets all the time.
type source struct {
	addr  netip.Addr
	kind  kind
	every time.Duration

	mu       sync.Mutex
	packets  []packet
	first    int // number of the first of them
	sent     int
	passed   int
	lost     int
	longest  time.Duration
	lostFrom time.Time // start of the current run of losses
	needs    []span    // times in which this host needs it; nil for always
}

// span is a period of time. It has no end while it is under way.
type span struct {
	from, to time.Time
	why      string
}

func (s span) has(at time.Time) bool {
	return !at.Before(s.from) && (s.to.IsZero() || at.Before(s.to))
}

// traffic is all sources, and the packets that reach the server.
type traffic struct {
	s       *soak
	sources []*source
	byAddr  map[netip.Addr]*source
	sender  *nettest.Sender
	conn    *net.UDPConn
	stopC   chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex
	outages []span // in which no packet arrives
	kept    []span // in which rules outlive an agent
	gap     span   // in which listed packets passed
}

func newTraffic(s *soak) *traffic {
	t := &traffic{s: s, byAddr: map[netip.Addr]*source{}, stopC: make(chan struct{})}
	add := func(k kind, every time.Duration, addrs ...string) {
		for _, a := range addrs {
			src := &source{addr: netip.MustParseAddr(a), kind: k, every: every}
			t.sources = append(t.sources, src)
			t.byAddr[src.addr] = src
		}
	}
	add(listed, 10*time.Millisecond, "198.51.100.9", "45.9.20.7", "2001:db8:f::1")
	add(listed, 40*time.Millisecond, "5.6.7.8", "2001:db8:0:b000::7")
	add(free, 20*time.Millisecond, "9.9.9.9", "2001:db8:aaaa::1")
	add(needed, 20*time.Millisecond, slices.Concat(gateways(), resolvers(), []string{gateway6, apiAddr, friendAddr})...)
	now := time.Now()
	for _, later := range []string{gateways()[1], resolvers()[1]} {
		t.byAddr[netip.MustParseAddr(later)].needs = []span{}
	}
	for _, first := range []string{gateways()[0], resolvers()[0]} {
		t.byAddr[netip.MustParseAddr(first)].needs = []span{{from: now}}
	}
	t.sender = nettest.NewSender(s.t, s.host.network, s.host.server, "eth0")
	var err error
	s.host.server.Do(func() {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			})
			if err == nil {
				err = cerr
			}
			return err
		}}
		var pc net.PacketConn
		if pc, err = config.ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", recvPort)); err == nil {
			t.conn = pc.(*net.UDPConn)
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = t.conn.Close() })
	return t
}

// run sends, receives and judges until stop.
func (t *traffic) run(s *soak) {
	for _, src := range t.sources {
		t.wg.Go(func() { t.send(src) })
	}
	go t.receive()
	t.wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.stopC:
				return
			case <-tick.C:
				for _, src := range t.sources {
					t.judge(src, time.Now().Add(-judgeAfter))
				}
				s.runChecks(time.Now())
			}
		}
	})
}

func (t *traffic) stop() {
	close(t.stopC)
	t.wg.Wait()
}

func (t *traffic) send(src *source) {
	dst := netip.MustParseAddr(server4)
	if src.addr.Is6() {
		dst = netip.MustParseAddr(server6)
	}
	tick := time.NewTicker(src.every)
	defer tick.Stop()
	for {
		select {
		case <-t.stopC:
			return
		case <-tick.C:
		}
		src.mu.Lock()
		n := src.first + len(src.packets)
		src.packets = append(src.packets, packet{at: time.Now()})
		src.sent++
		src.mu.Unlock()
		t.sender.UDP(netip.AddrPortFrom(src.addr, 4000), netip.AddrPortFrom(dst, recvPort),
			string(binary.BigEndian.AppendUint64(nil, uint64(n))))
	}
}

func (t *traffic) receive() {
	buf := make([]byte, 64)
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		src := t.byAddr[from.Addr().Unmap()]
		if src == nil || n != 8 {
			continue
		}
		number := int(binary.BigEndian.Uint64(buf))
		src.mu.Lock()
		if i := number - src.first; i >= 0 && i < len(src.packets) {
			src.packets[i].got = true
		}
		src.mu.Unlock()
	}
}

// judge judges the packets that were sent before a time.
func (t *traffic) judge(src *source, before time.Time) {
	src.mu.Lock()
	n := slices.IndexFunc(src.packets, func(p packet) bool { return p.at.After(before) })
	if n < 0 {
		n = len(src.packets)
	}
	packets := src.packets[:n]
	src.packets = slices.Clone(src.packets[n:])
	src.first += n
	src.mu.Unlock()
	for _, p := range packets {
		switch src.kind {
		case listed:
			if p.got {
				t.passes(src, p)
			}
		default:
			t.arrives(src, p)
		}
	}
}

// passes judges a packet of a listed source that arrived.
func (t *traffic) passes(src *source, p packet) {
	src.passed++
	t.s.blame(p.at, func(y *tally) { y.passed++ })
	t.mu.Lock()
	kept := slices.ContainsFunc(t.kept, func(s span) bool { return s.has(p.at) })
	// Gaps that are close together count as one.
	if t.gap.from.IsZero() || p.at.After(t.gap.to.Add(2*time.Second)) {
		from := p.at
		t.gap.from = from
		t.s.later(func() {
			if !t.s.agent.logged(from.Add(-10*time.Second), from.Add(20*time.Second)) {
				t.s.breaks(from, "the log does not report a gap")
			}
		})
	}
	t.gap.to = p.at
	t.mu.Unlock()
	switch {
	case t.s.watch.protects(p.at):
		t.s.breaks(p.at, "a packet of %v, which is listed, got through while the status said that the list is active",
			src.addr)
	case kept:
		t.s.breaks(p.at,
			"a packet of %v, which is listed, got through while the rules of a killed agent should be active",
			src.addr)
	}
}

// arrives judges a packet of a source that must not be dropped.
func (t *traffic) arrives(src *source, p packet) {
	if src.needs != nil && !t.needed(src, p.at) {
		src.lostFrom = time.Time{}
		return
	}
	if p.got {
		if !src.lostFrom.IsZero() {
			took := p.at.Sub(src.lostFrom)
			src.longest = max(src.longest, took)
			t.s.blame(src.lostFrom, func(y *tally) {
				if took > y.longest {
					y.longest, y.longestAt = took, src.lostFrom
				}
			})
		}
		src.lostFrom = time.Time{}
		return
	}
	t.mu.Lock()
	out := slices.ContainsFunc(t.outages, func(s span) bool { return s.has(p.at) })
	t.mu.Unlock()
	if out {
		return
	}
	src.lost++
	t.s.blame(p.at, func(y *tally) { y.lost++ })
	if src.lostFrom.IsZero() {
		src.lostFrom = p.at
	}
	if t.mayBeLost(src, p.at) {
		return
	}
	t.s.breaks(p.at, "a packet of %v, which must not be dropped, was lost", src.addr)
}

// needed reports whether the host needs the source at a time.
func (t *traffic) needed(src *source, at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(src.needs, func(s span) bool { return s.has(at) })
}

// mayBeLost reports whether the promise is not due yet: the host began to need the source, or its
// link came up, a short time ago.
func (t *traffic) mayBeLost(src *source, at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := func(s span) bool { return at.After(s.from) && at.Before(s.from.Add(promise)) }
	ended := func(s span) bool { return !s.to.IsZero() && at.After(s.from) && at.Before(s.to.Add(promise)) }
	if addr := src.addr.String(); addr == apiAddr || addr == gateway6 || src.needs != nil {
		return slices.ContainsFunc(src.needs, fresh) || slices.ContainsFunc(t.outages, ended)
	}
	return false
}

// inFlight is how long before an outage a packet may have got its time that is sent in it: a loaded
// machine may stop the sender in between.
const inFlight = 100 * time.Millisecond

// outage begins a period in which no packet arrives; the returned function ends it.
func (t *traffic) outage(why string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outages = append(t.outages, span{from: time.Now().Add(-inFlight), why: why})
	i := len(t.outages) - 1
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.outages[i].to = time.Now().Add(settles)
	}
}

// need sets which one of several sources the host needs from now on.
func (t *traffic) need(addrs []string, which int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for i, a := range addrs {
		src := t.byAddr[netip.MustParseAddr(a)]
		last := len(src.needs) - 1
		under := last >= 0 && src.needs[last].to.IsZero()
		switch {
		case i == which && !under:
			src.needs = append(src.needs, span{from: now})
		case i != which && under:
			src.needs[last].to = now
		}
	}
}

// keeps begins a period in which the rules of a killed agent must stay active. It ends when the
// next agent protects.
func (t *traffic) keeps() {
	t.mu.Lock()
	t.kept = append(t.kept, span{from: time.Now()})
	i := len(t.kept) - 1
	t.mu.Unlock()
	go func() {
		for {
			select {
			case <-t.stopC:
				return
			case <-time.After(50 * time.Millisecond):
			}
			p := t.s.watch.newest()
			t.mu.Lock()
			if (p.protects() || p.state == "unprotected") && p.asked.After(t.kept[i].from) && t.kept[i].to.IsZero() {
				t.kept[i].to = p.asked
			}
			ended := !t.kept[i].to.IsZero()
			t.mu.Unlock()
			if ended {
				return
			}
		}
	}()
}

// removed ends such a period: an agent that is stopped removes the rules.
func (t *traffic) removed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.kept {
		if t.kept[i].to.IsZero() {
			t.kept[i].to = time.Now()
		}
	}
}

// totals returns the counts of each source.
func (t *traffic) totals() string {
	var b strings.Builder
	for _, src := range t.sources {
		name := map[kind]string{listed: "listed", free: "not listed", needed: "listed and needed"}[src.kind]
		fmt.Fprintf(&b, "%-20v %-18s %7d sent", src.addr, name, src.sent)
		if src.kind == listed {
			fmt.Fprintf(&b, ", %d passed\n", src.passed)
		} else {
			fmt.Fprintf(&b, ", %d lost outside outages, at most for %v\n",
				src.lost, src.longest.Round(10*time.Millisecond))
		}
	}
	return b.String()
}
