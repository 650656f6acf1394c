package server

import (
	"net"
	"sync"
)

// crowd is the connections of a Server. When there are too many, the user who has most of them
// loses the oldest: a local user who opens thousands and says nothing takes none from others, nor
// keeps anybody waiting.
type crowd struct {
	most  int
	owner func(net.Conn) uint32 // the user who holds the other end

	mu    sync.Mutex
	conns map[*member]bool
	next  uint64
}

// member is one connection of a crowd.
type member struct {
	net.Conn

	crowd *crowd
	user  uint32
	order uint64 // of two, the older one has the lower
}

// nobodyKnown is the user of a connection whose user is not known. Such connections
// share one part.
const nobodyKnown = ^uint32(0)

func newCrowd(most int) *crowd {
	return &crowd{most: most, owner: owner, conns: map[*member]bool{}}
}

// listen returns l, with its connections in the crowd.
func (c *crowd) listen(l net.Listener) net.Listener { return crowdListener{l, c} }

type crowdListener struct {
	net.Listener
	crowd *crowd
}

// Accept never waits for a connection to end.
func (l crowdListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.crowd.add(conn), nil
}

// add takes a connection in, and closes another if there is one too many.
func (c *crowd) add(conn net.Conn) net.Conn {
	m := &member{Conn: conn, crowd: c, user: c.owner(conn)}
	c.mu.Lock()
	m.order = c.next
	c.next++
	c.conns[m] = true
	var out *member
	if len(c.conns) > c.most {
		out = c.oldestOfMost()
		delete(c.conns, out)
	}
	c.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close() // its user has too many
	}
	return m
}

// oldestOfMost returns the oldest connection of the user who has most.
func (c *crowd) oldestOfMost() *member {
	have := map[uint32]int{}
	for m := range c.conns {
		have[m.user]++
	}
	var out *member
	for m := range c.conns {
		if out == nil || have[m.user] > have[out.user] || have[m.user] == have[out.user] && m.order < out.order {
			out = m
		}
	}
	return out
}

// Close leaves the crowd.
func (m *member) Close() error {
	m.crowd.mu.Lock()
	delete(m.crowd.conns, m)
	m.crowd.mu.Unlock()
	return m.Conn.Close()
}
