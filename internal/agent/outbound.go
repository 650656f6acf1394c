package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

const (
	// lookSockets is how often the sockets are looked at, and socketShare bounds the share of time that looking takes: a
	// resolver may have tens of thousands of them.
	lookSockets, socketShare = time.Second, 1000
	// socketFor is how long a socket counts after it was seen last. Answers come that late at most.
	socketFor = 5 * time.Minute
)

// outbound knows from which ports this host may have sent datagrams. What comes to such a port can be an answer: datagrams
// have no flag that says who began, and the packets are dropped before the kernel looks whether it knows the connection.
type outbound struct {
	ports   config.PortMap
	sockets func() ([]host.UDPSocket, error) // nil: none are looked at
	local   func() (first, last uint16, err error)

	mu          sync.Mutex
	due         time.Time
	seen        map[host.UDPSocket]time.Time
	first, last uint16 // the ports of clients
	blind       bool   // the sockets could not be read: any port may have sent
}

// look looks at the sockets and the range of local ports when it is time to.
func (o *outbound) look(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sockets == nil || now.Before(o.due) {
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
		o.first, o.last = 1024, 65535 // what needs no privilege
	}
	o.due = now.Add(max(lookSockets, socketShare*time.Since(begin)))
}

// isService reports whether a datagram to a port that came at that time can only have begun something: SIKKER_PORT_MAP names
// the port, it is none that the kernel gives to clients, and no socket of this host could have sent from it to the source.
func (o *outbound) isService(port uint16, source netip.Addr, at time.Time) bool {
	if _, named := o.ports.Name(port); !named {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sockets == nil || o.blind || o.last == 0 || port >= o.first && port <= o.last {
		return false
	}
	for _, peer := range []netip.Addr{{}, source} { // a socket that is not connected may send to anyone
		if seen, ok := o.seen[host.UDPSocket{Port: port, Peer: peer}]; ok && at.Sub(seen) <= socketFor {
			return false
		}
	}
	return true
}
