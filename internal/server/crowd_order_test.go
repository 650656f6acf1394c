package server

import (
	"context"
	"io"
	"net"
	"testing"
)

// TestCrowdOrder checks that of the connections of a user, a silent one is closed before one that
// is being answered, and the oldest first. Another user loses none.
func TestCrowdOrder(t *testing.T) {
	t.Parallel()
	c := newCrowd(4)
	user := uint32(1)
	c.owner = func(net.Conn) uint32 { return user }
	join := func() (member net.Conn, ended func() bool) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
		endedC := make(chan struct{})
		go func() { _, _ = io.Copy(io.Discard, theirs); close(endedC) }()
		return c.add(ours), func() bool {
			select {
			case <-endedC:
				return true
			case <-t.Context().Done():
				return false
			}
		}
	}
	answered, _ := join()
	markAsked(withConn(context.Background(), answered))
	_, firstEnded := join()
	_, secondEnded := join()
	user = 2
	other, _ := join()
	user = 1
	if _, _ = join(); !firstEnded() {
		t.Error("the oldest silent connection stays")
	}
	if _, _ = join(); !secondEnded() {
		t.Error("the next silent connection stays")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range []net.Conn{answered, other} {
		if m, ok := conn.(*member); !ok || !c.conns[m] {
			t.Error("a connection that is being answered, or another user's, was closed")
		}
	}
}
