package agent

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

const (
	// lookSockets is how often the sockets are looked at, and socketShare bounds the share of time
	// that looking takes: a resolver may have tens of thousands of them.
	lookSockets, socketShare = time.Second, 1000
	// doubtShare bounds likewise the share of time that is taken by looking at the sockets, or by
	// reading the tracked connections, while datagrams come that may be reported.
	doubtShare = 20
	// socketFor is how long a socket counts after it was seen last. Answers come that late at most.
	socketFor = 5 * time.Minute
)

// outbound knows whether this host may have sent datagrams to a source before. Datagrams from it
// can be answers then: datagrams have no flag that says who began, and the packets are dropped
// before the kernel looks whether it knows the connection. Where the kernel tracks connections it
// is asked; else each socket that is not connected may have sent.
type outbound struct {
	ports   config.PortMap
	sockets func() ([]host.UDPSocket, error) // nil: none are looked at
	local   func() (first, last uint16, err error)
	tracks  func() bool
	peers   func() (map[netip.Addr]bool, error)

	mu          sync.Mutex
	looked      time.Time // when the sockets were looked at last
	due, soon   time.Time // when they are looked at again: anyway, and if datagrams come
	seen        map[host.UDPSocket]time.Time
	first, last uint16 // the ports of clients
	blind       bool   // the sockets could not be read: any port may have sent

	tracked bool                     // the kernel tracks connections
	flowDue time.Time                // when they may be read again
	checked time.Time                // when they were read last
	sent    map[netip.Addr]time.Time // to which this host began to send, of the sources of datagrams
}

// look looks at the sockets and the range of local ports when it is time to. That is sooner if hits
// have datagrams that only the sockets can show to be answers.
func (o *outbound) look(hits []sensor.Hit, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sockets == nil || now.Before(o.soon) || now.Before(o.due) && (o.tracked || len(o.dubious(hits)) == 0) {
		return
	}
	begin := time.Now()
	sockets, err := o.sockets()
	if o.blind = err != nil; o.seen == nil {
		o.seen = map[host.UDPSocket]time.Time{}
	}
	for _, s := range sockets {
		o.seen[s] = now
	}
	for s, at := range o.seen {
		if now.Sub(at) > socketFor {
			delete(o.seen, s)
		}
	}
	if o.first, o.last, err = o.local(); err != nil {
		o.first, o.last = 1024, 65535 // those that need no privilege
	}
	o.tracked = o.tracks()
	took := time.Since(begin)
	o.looked, o.soon, o.due = now, now.Add(doubtShare*took), now.Add(max(lookSockets, socketShare*took))
}

// check asks the kernel whether this host began to send to the sources of datagrams, where it
// tracks that. Hits that come sooner than it may be asked again are not known to be no answers.
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
	peers, err := o.peers()
	o.flowDue = now.Add(doubtShare * time.Since(begin))
	if err != nil {
		return // whether they are answers is not known then
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

// dubious returns the sources of datagrams to services: those may be reported unless they are
// answers.
func (o *outbound) dubious(hits []sensor.Hit) (sources []netip.Addr) {
	for _, h := range hits {
		if h.Kind == sensor.Attempt && h.Protocol == sensor.UDP && o.named(h.Port) {
			sources = append(sources, h.Source)
		}
	}
	return sources
}

// named reports whether a port is that of a service: SIKKER_PORT_MAP names it, and it is none that
// the kernel gives to clients.
func (o *outbound) named(port uint16) bool {
	_, named := o.ports.Name(port)
	return named && o.last != 0 && (port < o.first || port > o.last)
}

// found reports whether s was there shortly before that time.
func (o *outbound) found(s host.UDPSocket, at time.Time) bool {
	seen, ok := o.seen[s]
	return ok && at.Sub(seen) <= socketFor
}

// isService reports whether a datagram of a source to a port that came at that time can only have
// begun something. If nothing was looked at since, that is not known: a socket may be new.
func (o *outbound) isService(port uint16, source netip.Addr, at time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.sockets == nil, o.blind, !o.named(port), o.found(host.UDPSocket{Port: port, Peer: source}, at):
		return false
	case o.tracked:
		last, sent := o.sent[source]
		return !at.After(o.checked) && (!sent || at.Sub(last) > socketFor)
	default:
		return !at.After(o.looked) && !o.found(host.UDPSocket{Port: port}, at)
	}
}
