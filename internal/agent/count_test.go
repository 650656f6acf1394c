package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

func four(packets uint64) ruleset.Counters {
	return ruleset.Counters{Packets4: packets, Bytes4: 40 * packets}
}

// TestCountersAreKeptBeforeTheyAreShown asks for the status over and over while packets are dropped: whatever it shows is in
// the database then, so that a kill in the next instant takes nothing back.
func TestCountersAreKeptBeforeTheyAreShown(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	k := &rising{}
	a.fw = k
	a.store = store.New(store.Options{Dir: t.TempDir()})
	t.Cleanup(func() { _ = a.store.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return a.recordAll(ctx) })
	for a.board.Status().Dropped == nil { // the database is not open yet
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		k.packets.Add(1)
		s := a.board.Status()
		if kept, err := a.store.Counters(t.Context()); err != nil || kept.Packets4 != s.Dropped.Packets4 {
			t.Errorf("shown %d packets, kept %d, %v", s.Dropped.Packets4, kept.Packets4, err)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// rising is a kernel whose counter another goroutine raises.
type rising struct {
	kernel

	packets atomic.Uint64
}

func (r *rising) Counters() (ruleset.Counters, error) { return four(r.packets.Load()), nil }
