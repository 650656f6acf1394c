package nft

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestWatchRefillsExchangedElements exchanges elements of a table that has no owner, so that
// neither their number nor a sample shows it. Watch restores them, on a kernel that returns counts
// and on one that does not. A change by the agent itself causes no refill.
func TestWatchRefillsExchangedElements(t *testing.T) {
	t.Parallel()
	for name, countAttr := range map[string]uint16{"counted": nftaSetCount, "uncounted": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if countAttr != 0 {
				needCounts(t)
			}
			h := newHost(t, Options{})
			h.table.flags, h.table.countAttr = 0, countAttr // as on a kernel without owner
			block := addresses(1_000, "203.0.113.66", "203.0.113.67", "203.0.113.69", "45.9.20.0/24")
			allow := list("10.0.0.0/8")
			h.apply(block, allow)
			h.apply(block, allow)
			sent := h.table.drift.sent
			h.Do(func() {
				if pending, err := h.table.refill(); pending || err != nil {
					t.Errorf("the agent's own change: pending %v, %v", pending, err)
				}
			})
			if h.table.drift.sent != sent {
				t.Error("the agent's own change: sets refilled")
			}
			ctx, cancel := context.WithCancel(t.Context())
			lostC, doneC := make(chan error, 16), make(chan error, 1)
			go func() {
				var err error
				h.Do(func() { err = h.table.Watch(ctx, func(err error) { lostC <- err }) })
				doneC <- err
			}()
			defer func() {
				cancel()
				if err := <-doneC; err != nil {
					t.Errorf("watch: %v", err)
				}
			}()
			listed := func() bool {
				out := h.Run("nft", "list", "set", "inet", "sikkerguard", "blocklist4_32")
				return strings.Contains(out, " 9.9.9.9")
			}
			for range 2 { // the second time after a pause
				h.Run("nft", "delete element inet sikkerguard blocklist4_32 { 203.0.113.66 }; "+
					"add element inet sikkerguard blocklist4_32 { 9.9.9.9 }")
				for start := time.Now(); listed(); {
					if time.Since(start) > time.Minute {
						t.Fatal("not restored")
					}
					time.Sleep(watchInterval)
				}
				h.Check("restored", nettest.Addrs("203.0.113.66", "45.9.20.7"), nettest.Addrs("9.9.9.9"))
			}
			select {
			case err := <-lostC:
				t.Errorf("lost called although a refill restored the elements: %v", err)
			default:
			}
		})
	}
}
