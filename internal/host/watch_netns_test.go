package host

import (
	"context"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestWatch: a new address is told, and the watching ends when it is asked to.
func TestWatch(t *testing.T) {
	t.Parallel()
	server, peer := nettest.New(t), nettest.New(t)
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24"), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changedC := make(chan struct{}, 16)
	doneC := make(chan error, 1)
	h := New(Options{Root: t.TempDir(), Proxy: noProxy})
	go server.Do(func() { doneC <- h.Watch(ctx, func() { changedC <- struct{}{} }) })
	// Nothing says when the watching has begun: addresses are added until one is noticed.
	deadline := time.After(10 * time.Second)
	for noticed := false; !noticed; {
		server.Run("ip", "addr", "add", "198.51.100.0/32", "dev", "sg0")
		select {
		case <-changedC:
			noticed = true
		case <-time.After(2 * watchSettle):
			server.Run("ip", "addr", "del", "198.51.100.0/32", "dev", "sg0")
		case <-deadline:
			t.Fatal("no change was told")
		}
	}
	cancel()
	select {
	case err := <-doneC:
		if err != nil {
			t.Errorf("watch: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still watching")
	}
}
