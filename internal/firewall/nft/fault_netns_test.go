package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestFaultsUnderTraffic refreshes a fuzzed list while listed and unlisted sources send. The kernel
// refuses some transactions, and its answers to others are lost. Some listed sources move between
// sets each time. No packet of a listed source gets through, and no packet of an unlisted one is lost.
func TestFaultsUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ owned, steady, lost bool }{
		{true, true, false}, {false, true, false}, {true, false, false}, {false, true, true},
	} {
		t.Run(fmt.Sprintf("owned=%t,steady=%t,lost=%t", tt.owned, tt.steady, tt.lost), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			if !tt.owned {
				h.table.flags = 0
			}
			h.table.steady = h.table.steady && tt.steady
			times := 200
			if testing.Short() {
				times = 40
			}
			const seed = 5
			f := &faults{tap: h.tap(), rng: rand.New(rand.NewPCG(seed, seed)), lost: tt.lost, at: -1}
			f.tap.before = f.next
			always := nettest.Addrs("45.9.20.7", "62.1.1.1", "2001:db8:0:b123::1")
			never := nettest.Addrs("192.0.2.50", "9.9.9.9")
			h.apply(f.list(), list())
			failed := 0
			h.Under(always, never, func() {
				for range times {
					f.begin()
					if _, err := h.tryApply(f.list(), list()); err != nil {
						failed++
					}
				}
			})
			if failed < times/8 || failed > times*7/8 {
				t.Errorf("%d of %d refreshes failed", failed, times)
			}
		})
	}
}

// faults makes one transaction of some refreshes fail.
type faults struct {
	tap     *tap
	rng     *rand.Rand
	entries []netip.Prefix
	lost    bool // each fault is a lost answer; often two follow one another
	at      int  // the transaction that fails
	kind    int  // how it fails
}

// begin chooses the fault of the next refresh: the answer is lost, the kernel refuses the transaction
// with one of two errors, or there is none.
func (f *faults) begin() {
	f.at, f.kind = f.tap.transactions+f.rng.IntN(3), f.rng.IntN(5)
	for f.lost && (f.kind == 2 || f.kind == 3) {
		f.kind = f.rng.IntN(5)
	}
}

// next is called before each transaction.
func (f *faults) next() {
	f.tap.lose, f.tap.refuse = false, nil
	if f.tap.transactions != f.at {
		return
	}
	switch f.kind {
	case 0, 1:
		f.tap.lose = true
	case 2:
		f.tap.refuse = unix.ENOMEM
	case 3:
		f.tap.refuse = unix.EEXIST
	}
}

// list returns the next list. The sources that are always on it are in entries of changing widths.
func (f *faults) list() blocklist.Blocklist {
	forms := [][]string{
		{"45.9.20.7", "62.0.0.0/7", "2001:db8:0:b123::1"},
		{"45.9.20.0/24", "62.1.1.1", "2001:db8:0:b123::/64"},
		{"45.9.20.0/22", "62.1.0.0/16", "2001:db8:0:b000::/52"},
		{"45.9.0.0/17", "62.1.1.0/27", "2001:db8::/33"},
		{"45.9.20.4/30", "62.1.0.0/15", "2001:db8::/32"},
	}
	if f.entries = mutate(f.rng, f.entries); len(f.entries) > 1500 {
		f.entries = f.entries[:50]
	}
	ps := slices.Concat(f.entries, list(forms[f.rng.IntN(len(forms))]...).Prefixes())
	if f.rng.IntN(3) == 0 { // enough for a gate
		ps = append(ps, networks(minGated+10, 27)...)
	}
	return blocklist.New(ps).Without(list("9.9.9.9", "192.0.2.0/24"))
}
