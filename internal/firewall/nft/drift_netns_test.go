package nft

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestWatchExchange exchanges elements of a table that has no owner, so that their number stays the
// same and no sample shows it. They are put back, on a kernel that tells counts and on one that does
// not, and a change of ours alone has nothing filled again.
func TestWatchExchange(t *testing.T) {
	t.Parallel()
	for name, countAttr := range map[string]uint16{"counted": nftaSetCount, "uncounted": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			h.table.flags, h.table.countAttr = 0, countAttr // as on a kernel without owner
			block, allow := addresses(1_000, "203.0.113.66", "203.0.113.67", "203.0.113.69", "45.9.20.0/24"), list("10.0.0.0/8")
			h.apply(block, allow)
			h.apply(block, allow)
			sent := h.table.drift.sent
			h.Do(func() {
				if pending, err := h.table.refill(); pending || err != nil {
					t.Errorf("our own change: pending %v, %v", pending, err)
				}
			})
			if h.table.drift.sent != sent {
				t.Error("our own change: filled again")
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
			for range 2 { // the second time after a pause
				h.Run("nft", "delete element inet sikkerguard blocklist4_32 { 203.0.113.66 }; "+
					"add element inet sikkerguard blocklist4_32 { 9.9.9.9 }")
				for start := time.Now(); strings.Contains(h.Run("nft", "list", "set", "inet", "sikkerguard", "blocklist4_32"), " 9.9.9.9"); {
					if time.Since(start) > time.Minute {
						t.Fatal("not put back")
					}
					time.Sleep(watchInterval)
				}
				h.Check("put back", nettest.Addrs("203.0.113.66", "45.9.20.7"), nettest.Addrs("9.9.9.9"))
			}
			select {
			case err := <-lostC:
				t.Errorf("what is put back at once was told: %v", err)
			default:
			}
		})
	}
}
