package server

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"sync"
)

// crowd is the connections of a Server. If there are more than most, the user with the most
// connections loses one: the oldest whose request was not read yet, or the oldest if all were read.
// So a local user who opens thousands and sends nothing takes none from other users, and none from
// an own client that is being answered.
type crowd struct {
	most  int
	owner func(net.Conn) uint32 // returns the user ID of the other end

	mu    sync.Mutex
	conns map[*member]bool
	next  uint64
}

// member is one connection of a crowd.
type member struct {
	net.Conn

	crowd *crowd
	user  uint32
	order uint64 // increases with every connection

	asked bool // its request was read and is being answered; guarded by crowd.mu
}

// memberKey is the context key of the connection of a request.
type memberKey struct{}

// withConn is the ConnContext of the HTTP server. It stores the connection for markAsked.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, memberKey{}, conn)
}

// markAsked records that the request of ctx was read.
func markAsked(ctx context.Context) {
	if m, ok := ctx.Value(memberKey{}).(*member); ok {
		m.crowd.mu.Lock()
		m.asked = true
		m.crowd.mu.Unlock()
	}
}

// unknownUser is the user ID of connections whose user is unknown. They count as those of one user.
const unknownUser = ^uint32(0)

func newCrowd(most int) *crowd {
	return &crowd{most: most, owner: owner, conns: map[*member]bool{}}
}

// listen returns l with its connections in the crowd.
func (c *crowd) listen(l net.Listener) net.Listener { return crowdListener{l, c} }

type crowdListener struct {
	net.Listener
	crowd *crowd
}

// Accept returns the next connection. It never waits for another to end.
func (l crowdListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.crowd.add(conn), nil
}

// add adds a connection. If there are then more than c.most, it closes one.
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

// oldestOfMost returns the connection to close: of the user with the most, the oldest that has not
// asked, or the oldest if all have.
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

// Close closes the connection and removes it from the crowd.
func (m *member) Close() error {
	m.crowd.mu.Lock()
	delete(m.crowd.conns, m)
	m.crowd.mu.Unlock()
	return m.Conn.Close()
}
