package nft

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestChangedUnderneath has another program change the sets between two refreshes, on a kernel
// without table owners. The next refresh notices it by the generation, or by the counts if that is
// hidden, and leaves what a whole fill leaves.
func TestChangedUnderneath(t *testing.T) {
	t.Parallel()
	for _, hidden := range []bool{false, true} {
		t.Run(fmt.Sprintf("hidden=%t", hidden), func(t *testing.T) {
			t.Parallel()
			if hidden {
				needCounts(t)
			}
			h := newHost(t, Options{})
			h.table.flags = 0 // as on a kernel without owner
			first := addresses(1000, "203.0.113.9", "62.0.0.0/7")
			second := addresses(1000, "203.0.113.9", "62.0.0.0/7", "203.0.113.77")
			h.apply(second, list())
			want := h.elements()
			changes := []string{
				"delete element inet sikkerguard blocklist4_32 { 11.0.0.77 }",
				"add element inet sikkerguard blocklist4_32 { 203.0.113.77, 9.9.9.9 }",
				"add element inet sikkerguard blocklist4_any { 9.0.0.0/8 }",
				"flush set inet sikkerguard blocklist4_any",
			}
			if !hidden { // the counts stay
				changes = append(changes, "delete element inet sikkerguard blocklist4_32 { 11.0.0.77 }; "+
					"add element inet sikkerguard blocklist4_32 { 9.9.9.9 }")
			}
			for _, change := range changes {
				h.apply(first, list())
				h.Run("nft", change)
				if hidden {
					h.table.drift.sent++ // as if the transaction were the agent's own
				}
				h.apply(second, list())
				if diff := cmp.Diff(want, h.elements()); diff != "" {
					t.Errorf("after %s (-want +got):\n%s", change, diff)
				}
			}
		})
	}
}

// TestRefusedDifference makes the agent's knowledge of the elements wrong, with no trace in counts
// or generation: the kernel refuses the difference, and the same Apply fills the sets instead.
func TestRefusedDifference(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	block := addresses(1000, "203.0.113.9", "62.0.0.0/7", "45.9.20.0/24")
	h.apply(block, list())
	tests := []struct {
		name        string
		gone, added string // in the kernel, unknown to the agent
		next        blocklist.Blocklist
	}{
		{"bad element to delete is missing", "11.0.0.7", "9.9.9.9", block.Without(list("11.0.0.7"))},
		{"bad element to add exists", "11.0.0.8", "203.0.113.77", block.Union(list("203.0.113.77"))},
	}
	for _, tt := range tests {
		h.apply(block, list())
		handle := h.handle()
		h.Do(func() {
			b := newBatch(h.table.conn, h.table.table(), nil)
			s := planBlock(list("203.0.113.9"))[0]
			b.alter(s, delta{gone: list(tt.gone).Prefixes(), added: list(tt.added).Prefixes()})
			if err := b.commit(); err != nil {
				t.Fatal(err)
			}
			h.table.drift.sent++ // so that no other program seems to have done it
		})
		tap := h.tap()
		h.apply(tt.next, list())
		// A kernel before Linux 6.17 gets a new interval set, in more transactions.
		if tap.flushes == 0 || tap.transactions < 2 || h.table.steady && tap.transactions > 2 {
			t.Errorf("%s: %d transactions, %d sets flushed", tt.name, tap.transactions, tap.flushes)
		}
		if got := h.handle(); got != handle {
			t.Errorf("%s: the table was replaced", tt.name)
		}
		got := h.elements()
		h.table.active.exact = false
		h.apply(tt.next, list())
		if diff := cmp.Diff(h.elements(), got); diff != "" {
			t.Errorf("%s (-whole fill +got):\n%s", tt.name, diff)
		}
	}
}

// TestFillAfterFailure ends a difference in each way in which the agent no longer knows the
// elements: the next Apply fills the sets, and the table is as after a whole fill. The kernel returns
// no counts, which would show some of these states.
func TestFillAfterFailure(t *testing.T) {
	t.Parallel()
	first := list("203.0.113.9", "203.0.113.10", "203.0.113.11", "45.9.20.0/24", "45.9.21.0/24")
	next := list("203.0.113.9", "203.0.113.10", "45.9.20.7", "45.9.21.0/24")
	tests := []struct {
		name string
		end  func(t *testing.T, h *host, tap *tap)
	}{
		{"bad answer lost", func(t *testing.T, h *host, tap *tap) {
			t.Helper()
			tap.lose = true
			_, err := h.tryApply(next, list())
			if tap.lose = false; !errors.Is(err, errUnsure) || !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("got %v, want %v", err, errUnsure)
			}
		}},
		{"bad panic between two transactions", func(t *testing.T, h *host, tap *tap) {
			t.Helper()
			tap.before = func() {
				if tap.transactions == 1 {
					panic("between two transactions")
				}
			}
			h.Do(func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				rs := ruleset.Ruleset{Block: next, LogGroup: 100, LogRate: 10_000}
				_, _ = h.table.Apply(t.Context(), rs)
			})
			tap.before = func() {}
		}},
		{"bad verification", func(t *testing.T, h *host, _ *tap) {
			t.Helper()
			h.apply(next, list())
			h.Do(func() {
				b := newBatch(h.table.conn, h.table.table(), nil)
				b.alter(planBlock(first)[0], delta{gone: list("203.0.113.9").Prefixes()})
				if err := b.commit(); err != nil {
					t.Error(err)
				}
				if _, err := h.table.Verify(); !errors.Is(err, ruleset.ErrMismatch) {
					t.Errorf("got %v, want %v", err, ruleset.ErrMismatch)
				}
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			h.hide(false)
			h.apply(next, list())
			want := h.elements()
			h.apply(first, list())
			tap := h.tap()
			tt.end(t, h, tap)
			tap.reset()
			h.apply(next, list())
			if tap.flushes == 0 {
				t.Error("the sets were not filled")
			}
			if diff := cmp.Diff(want, h.elements()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			tap.reset()
			h.apply(first, list())
			if tap.flushes > 0 {
				t.Error("the next change is not a difference")
			}
		})
	}
}

// TestRefusedAfterLostAnswer loses the answer to a change that the kernel has taken, and has the
// kernel refuse to repeat it. The next list moves a source that only the lost list had to another set:
// before the source leaves the old set, the rules look up both.
func TestRefusedAfterLostAnswer(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	all := list("203.0.113.9", "51.1.0.0/24") // both sets are live throughout
	h.apply(all, list())
	tap := h.tap()
	tap.lose = true
	if _, err := h.tryApply(all.Union(list("45.9.20.0/24")), list()); !errors.Is(err, errUnsure) {
		t.Fatalf("got %v, want %v", err, errUnsure)
	}
	tap.lose = false
	tap.reset()
	both := false
	tap.before = func() {
		tap.refuse = nil
		if tap.transactions == 0 { // the change whose answer was lost
			tap.refuse = unix.ENOMEM
		}
		rules, err := h.table.reads.kernelRules()
		if err != nil {
			t.Fatal(err)
		}
		elements := h.elements()
		looksUp := func(element string) bool {
			for name, es := range elements {
				if slices.Contains(es, element) && slices.ContainsFunc(rules[baseChain], namesSet(name)) {
					return true
				}
			}
			return false
		}
		wide, narrow := looksUp("45.9.20.0 end=false"), looksUp("45.9.20.7 end=false")
		both = both || wide && narrow
		if !wide && !both {
			t.Error("the source left the old set before it was in the new one")
		}
	}
	h.apply(all.Union(list("45.9.20.7")), list())
	if !both {
		t.Error("the rules never looked up the old and the new set of the source")
	}
	h.Check("moved", nettest.Addrs("203.0.113.9", "51.1.0.1", "45.9.20.7"), nettest.Addrs("45.9.20.1"))
	for name := range h.elements() {
		if name != plainName(name) {
			t.Errorf("the table still has the set %s", name)
		}
	}
	tap.before = func() {}
	tap.reset()
	h.apply(all, list())
	if tap.flushes > 0 {
		t.Error("the next change is not a difference")
	}
}

// TestAdoptedIsFilled adopts a table of a dead agent, whose elements are unknown: the first list
// fills its sets, and the second is a difference.
func TestAdoptedIsFilled(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Keep: true})
	h.apply(addresses(100, "203.0.113.9"), list())
	h.orphan()
	h.open(Options{Keep: true})
	tap := h.tap()
	h.apply(addresses(100, "203.0.113.10"), list())
	if tap.flushes == 0 {
		t.Error("the adopted set was not filled")
	}
	tap.reset()
	h.apply(addresses(100, "203.0.113.11"), list())
	if tap.flushes > 0 || tap.transactions != 1 {
		t.Errorf("the second list flushed %d sets in %d transactions", tap.flushes, tap.transactions)
	}
	h.Check("second list", nettest.Addrs("203.0.113.11", "11.0.0.7"), nettest.Addrs("203.0.113.9", "203.0.113.10"))
}

// TestRefusedForMemory has the kernel refuse a difference for lack of memory: the rules stay, and
// the next Apply is a difference again. A whole fill would need much more memory.
func TestRefusedForMemory(t *testing.T) {
	t.Parallel()
	t.Run("owned", func(t *testing.T) {
		t.Parallel()
		refusedForMemory(t, newHost(t, Options{}))
	})
	t.Run("without owner", func(t *testing.T) { // as before Linux 5.12
		t.Parallel()
		h := newHost(t, Options{})
		h.table.flags = 0
		refusedForMemory(t, h)
	})
}

func refusedForMemory(t *testing.T, h *host) {
	t.Helper()
	h.apply(addresses(100, "203.0.113.9"), list())
	tap := h.tap()
	tap.refuse = unix.ENOMEM
	_, err := h.tryApply(addresses(100, "203.0.113.10"), list())
	if !errors.Is(err, unix.ENOMEM) || errors.Is(err, ruleset.ErrMismatch) || tap.transactions != 1 {
		t.Errorf("got %v after %d transactions, want %v alone", err, tap.transactions, unix.ENOMEM)
	}
	h.Check("refused", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.113.10"))
	tap.refuse = nil
	h.apply(addresses(100, "203.0.113.11"), list())
	if tap.flushes > 0 || tap.transactions != 2 {
		t.Errorf("%d sets were flushed in %d transactions", tap.flushes, tap.transactions-1)
	}
	h.Check("applied", nettest.Addrs("203.0.113.11"), nettest.Addrs("203.0.113.9", "203.0.113.10"))
}

// TestRefusedHalfWay has the kernel refuse a change after it has filled a new set: the next Apply
// deletes that set, and is still a difference.
func TestRefusedHalfWay(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.apply(addresses(100, "203.0.113.9"), list())
	tap := h.tap()
	tap.before = func() {
		if tap.transactions == 1 { // the first one fills the set
			tap.refuse = unix.ENOMEM
		}
	}
	if _, err := h.tryApply(addresses(100, "45.9.20.0/24"), list()); !errors.Is(err, unix.ENOMEM) {
		t.Fatalf("got %v, want %v", err, unix.ENOMEM)
	}
	if left := h.elements(); len(left["blocklist4_24"]) != 1 {
		t.Fatalf("the refused change left no set: %v", left)
	}
	tap.before, tap.refuse = func() {}, nil
	tap.reset()
	h.apply(addresses(100, "203.0.113.11"), list())
	if left, ok := h.elements()["blocklist4_24"]; ok {
		t.Errorf("the set is still there: %v", left)
	}
	if tap.flushes > 0 || tap.transactions != 1 {
		t.Errorf("%d sets were flushed in %d transactions", tap.flushes, tap.transactions)
	}
	h.Check("applied", nettest.Addrs("203.0.113.11"), nettest.Addrs("203.0.113.9", "45.9.20.1"))
}
