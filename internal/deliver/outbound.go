package deliver

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

const (
	// readSockets is the time between two readings of the sockets. After one that took long it is
	// socketShare times as long: a resolver may have tens of thousands of sockets.
	readSockets, socketShare = time.Second, 1000
	// doubtShare bounds in the same way the time for readings of the sockets or the tracked
	// connections while datagrams come that may be reported.
	doubtShare = 20
	// socketFor is how long a socket counts after it was last seen. Replies come at most that late.
	socketFor = 5 * time.Minute
	// lateFor is how long a datagram waits for the next reading of the tracked connections. The
	// kernel tracks one for 30 s after its last datagram (nf_conntrack_udp_timeout).
	lateFor = 5 * time.Second
	// trackedFor is how long before a reading of the tracked connections a datagram may have come, for
	// the kernel to track its connection certainly. The kernel's counts are read every ten seconds or
	// more often, unless it refuses.
	trackedFor = 15 * time.Second
)

// Outbound reads the UDP sockets and the tracked connections of this host.
type Outbound struct {
	Sockets    func() ([]host.UDPSocket, error)             // nil: no datagram is taken for an attempt
	LocalPorts func() (first, last uint16, err error)       // the ports that the kernel gives to clients
	Tracks     func() bool                                  // reports whether the kernel tracks connections
	Peers      func() (sent map[netip.Addr]bool, err error) // the addresses to which this host began to send
}

// outbound decides whether this host may have sent datagrams to a source before. A datagram of that
// source can then be a reply: datagrams have no flag that says which side began, and the packets
// are dropped before the kernel looks up their connection. If the kernel tracks connections, it is
// asked. Otherwise each socket that is not connected may have sent.
type outbound struct {
	Outbound

	portName func(uint16) (string, bool)

	mu          sync.Mutex
	lastRead    time.Time // when the sockets were last read
	due, soon   time.Time // of the next reading: in any case, and if datagrams come
	lastSeen    map[host.UDPSocket]time.Time
	first, last uint16 // the range of clients' ports
	blind       bool   // the sockets could not be read; any port may have sent

	tracked bool      // the kernel tracks connections
	flowDue time.Time // when they may be read again
	checked time.Time // when they were read last
	// sent has the sources of datagrams to which this host began to send, and the time when that
	// was last seen.
	sent map[netip.Addr]time.Time
}

// update reads the sockets and the range of local ports, if that is due. It is due sooner if hits
// contain datagrams that only the sockets can show to be replies.
func (o *outbound) update(hits []sensor.Hit, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Sockets == nil || now.Before(o.soon) || now.Before(o.due) && (o.tracked || len(o.dubious(hits)) == 0) {
		return
	}
	begin := time.Now()
	sockets, err := o.Sockets()
	if o.blind = err != nil; o.lastSeen == nil {
		o.lastSeen = map[host.UDPSocket]time.Time{}
	}
	for _, s := range sockets {
		o.lastSeen[s] = now
	}
	for s, at := range o.lastSeen {
		if now.Sub(at) > socketFor {
			delete(o.lastSeen, s)
		}
	}
	if o.first, o.last, err = o.LocalPorts(); err != nil {
		o.first, o.last = 1024, 65535 // those that need no privilege
	}
	o.tracked = o.Tracks()
	took := time.Since(begin)
	o.lastRead, o.soon, o.due = now, now.Add(doubtShare*took), now.Add(max(readSockets, socketShare*took))
}

// check asks a kernel that tracks connections whether this host began to send to the sources of
// datagrams. Hits that come before the kernel may be asked again are undecided until then.
func (o *outbound) check(hits []sensor.Hit, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.tracked || now.Before(o.flowDue) {
		return
	}
	sources := o.dubious(hits)
	if len(sources) == 0 {
		return
	}
	begin := time.Now()
	peers, err := o.Peers()
	o.flowDue = now.Add(doubtShare * time.Since(begin))
	if err != nil {
		return // they are undecided
	}
	o.checked = now
	if o.sent == nil {
		o.sent = map[netip.Addr]time.Time{}
	}
	maps.DeleteFunc(o.sent, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > socketFor })
	for _, s := range sources {
		if peers[s] {
			o.sent[s] = now
		}
	}
}

// dubious returns the sources of datagrams to services. They may be reported unless the datagrams
// are replies.
func (o *outbound) dubious(hits []sensor.Hit) (sources []netip.Addr) {
	for _, h := range hits {
		if o.toService(h) {
			sources = append(sources, h.Source)
		}
	}
	return sources
}

// toService reports whether h has datagrams to a service.
func (o *outbound) toService(h sensor.Hit) bool {
	return h.Kind == sensor.Attempt && h.Protocol == sensor.UDP && o.named(h.Port)
}

// named reports whether a port is a service's: it has a name, and the kernel does not give it to
// clients.
func (o *outbound) named(port uint16) bool {
	_, named := o.portName(port)
	return named && o.last != 0 && (port < o.first || port > o.last)
}

// found reports whether the socket s existed shortly before at.
func (o *outbound) found(s host.UDPSocket, at time.Time) bool {
	last, ok := o.lastSeen[s]
	return ok && at.Sub(last) <= socketFor
}

// unread reports whether the sockets or the tracked connections, whichever decide, were not read
// since at.
func (o *outbound) unread(at time.Time) bool {
	if o.tracked {
		return at.After(o.checked)
	}
	return at.After(o.lastRead)
}

// isReply reports whether a datagram of source to port, received at that time, may be a reply by the
// last reading.
func (o *outbound) isReply(port uint16, source netip.Addr, at time.Time) bool {
	if o.found(host.UDPSocket{Port: port, Peer: source}, at) {
		return true
	}
	if o.tracked {
		last, sent := o.sent[source]
		return sent && at.Sub(last) <= socketFor
	}
	return o.found(host.UDPSocket{Port: port}, at)
}

// isUndecided reports whether h has datagrams to a service that may be replies only because the
// host was not read since. If soon, the next reading still decides: the kernel tracks a connection
// for longer than h has waited. A socket may be closed before the next reading.
func (o *outbound) isUndecided(h sensor.Hit, now time.Time) (undecided, soon bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.toService(h) || o.isReply(h.Port, h.Source, h.Last) {
		return false, false
	}
	return o.blind || o.unread(h.Last), !o.blind && o.tracked && now.Sub(h.First) <= lateFor
}

// isExpired reports whether h has datagrams to a service that may be replies because they came too
// long before now: the kernel may have forgotten their connections.
func (o *outbound) isExpired(h sensor.Hit, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tracked && o.toService(h) && now.Sub(h.First) > trackedFor && !o.isReply(h.Port, h.Source, h.Last)
}

// isService reports whether a datagram of source to port, received at that time, cannot be a reply.
// If the host was not read since, it may be one: a socket may be new.
func (o *outbound) isService(port uint16, source netip.Addr, at time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.blind && o.named(port) && !o.unread(at) && !o.isReply(port, source, at)
}
