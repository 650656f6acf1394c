package server

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"sync"
)

// crowd is the connections of a Server. When there are too many, the user who has most of them
// loses the oldest that has not asked anything yet, or the oldest if all have: a local user who
// opens thousands and says nothing takes none from others, and none from a client of his own that
// is being answered.
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

	asked bool // its request was read, and is being answered; crowd.mu guards it
}

// memberKey is the key of a request's connection in its context.
type memberKey struct{}

// remember is the ConnContext of a server: it keeps the connection for asked.
func remember(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, memberKey{}, conn)
}

// asked notes that the request of ctx was read.
func asked(ctx context.Context) {
	if m, ok := ctx.Value(memberKey{}).(*member); ok {
		m.crowd.mu.Lock()
		m.asked = true
		m.crowd.mu.Unlock()
	}
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

// oldestOfMost returns the connection of the user who has most that goes first: one that has not
// asked before one that has, and the oldest of those.
func (c *crowd) oldestOfMost() *member {
	have := map[uint32]int{}
	for m := range c.conns {
		have[m.user]++
	}
	return slices.MinFunc(slices.Collect(maps.Keys(c.conns)), func(a, b *member) int {
		silent := 0
		if a.asked != b.asked {
			silent = 1
			if b.asked {
				silent = -1
			}
		}
		return cmp.Or(cmp.Compare(have[b.user], have[a.user]), silent, cmp.Compare(a.order, b.order))
	})
}

// Close leaves the crowd.
func (m *member) Close() error {
	m.crowd.mu.Lock()
	delete(m.crowd.conns, m)
	m.crowd.mu.Unlock()
	return m.Conn.Close()
}
