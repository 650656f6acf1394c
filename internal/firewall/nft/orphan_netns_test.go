package nft

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// orphan closes the connection, as the kernel does for a killed process, and waits until the kernel
// has ended the ownership. A process that another test starts at that moment has a copy of the
// socket until it executes its program.
func (h *host) orphan() {
	h.tb.Helper()
	if err := h.table.Close(); err != nil {
		h.tb.Fatal(err)
	}
	reads := h.reader()
	h.table.reads = reads // the test still looks at the table
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		found, err := reads.findTable()
		if err == nil && found != nil && found.Owner == 0 {
			return
		}
		if time.Now().After(end) {
			h.tb.Fatalf("the table is not an orphan: %+v, %v", found, err)
		}
	}
}

// harm makes the change. nft 1.0 cannot express a persistent table, so the dormant flag is set
// through the library.
func (h *host) harm(hm harm) {
	h.tb.Helper()
	if hm.script != "" {
		for part := range strings.Lines(hm.script) {
			h.Run("nft", strings.ReplaceAll(part, "TABLE", "inet "+tableName))
		}
		return
	}
	reads := h.reader()
	h.Do(func() {
		found, err := reads.findTable()
		if err == nil {
			found.Flags |= nftables.TableFlagDormant
			c, _ := nftables.New()
			c.AddTable(found)
			err = c.Flush()
		}
		if err != nil {
			h.tb.Error(err)
		}
	})
}

func (h *host) hasFlowtables() bool {
	h.tb.Helper()
	out := h.Run("sh", "-c", "nft 'add table inet t; "+
		"add flowtable inet t f { hook ingress priority 0; devices = { lo }; }; delete table inet t' || echo no")
	return !strings.Contains(out, "no")
}

// listed returns the parts of the table as nft prints them, sorted, without the counters' values.
func (h *host) listed() []string {
	h.tb.Helper()
	text := plain(h.Run("nft", "list", "table", "inet", tableName))
	text = regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(text, "-")
	// The keys of hit sets are those of the packets that the test has sent.
	text = regexp.MustCompile(`(?s)(\tflags dynamic\n(?:\t\tcounter\n)?)\t\telements = \{.*?\}\n`).ReplaceAllString(text, "$1")
	text = strings.TrimPrefix(text, "table inet sikkerguard {\n")
	return slices.Sorted(slices.Values(strings.Split(strings.TrimSuffix(text, "\n}\n"), "\n\n")))
}

// TestHarmedTable has another program change the table in many ways: while its owner is dead, so
// that a new agent adopts it, and on a kernel without table owners, where the same agent restores
// it. The next Apply succeeds, the table is as before, and no foreign part is left in it. No packet
// of a listed source gets through as long as the changed rules enforce the list.
func TestHarmedTable(t *testing.T) {
	t.Parallel()
	blocked := nettest.Addrs("203.0.113.9", "45.9.20.7", "62.1.1.1", "2001:db8:f::1")
	open := nettest.Addrs("203.0.113.1", "9.9.9.9", "2001:db8:9::1")
	block := list("203.0.113.9", "203.0.113.0/30", "203.0.113.10", "203.0.113.11", "45.9.20.0/24",
		"62.0.0.0/7", "2001:db8:f::1", "2001:db8:9::/64")
	allow := list("203.0.113.1", "2001:db8:9::1")
	for _, hm := range harms() {
		for _, owners := range []bool{true, false} {
			t.Run(hm.name+map[bool]string{true: ", orphaned", false: ", no owners"}[owners], func(t *testing.T) {
				t.Parallel()
				h := newHost(t, Options{Keep: true})
				if hm.name == "flowtable" && !h.hasFlowtables() {
					t.Skip("this kernel has no flowtables")
				}
				if !owners {
					h.table.flags = 0
				}
				h.apply(block, allow)
				want := h.listed()
				h.Check("before", blocked, open)
				before, err := h.counters()
				if err != nil {
					t.Fatal(err)
				}
				if owners {
					h.orphan()
				}
				handle := h.handle()
				h.harm(hm)
				made := strings.Contains(hm.script, "delete table")
				h.Do(func() {
					l, err := h.table.layout()
					if err != nil {
						t.Error(err)
						return
					}
					if made {
						return // there may be no table
					}
					if reason := l.incompatible(h.table.flags); (reason != "") != hm.replace {
						t.Errorf("the table is incompatible because %q", reason)
					}
				})
				refresh := func(l blocklist.Blocklist) {
					if owners {
						h.open(Options{Keep: true})
					}
					h.apply(l, allow)
				}
				switch {
				case hm.partial:
					h.Under(blocked[:1], open[1:2], func() { refresh(block) })
				case hm.broken:
					refresh(block)
				default:
					h.Under(blocked, open, func() { refresh(block) })
				}
				h.Check("after", blocked, open)
				if got := h.handle(); !made && (got == handle) == hm.replace {
					t.Errorf("the table's handle was %s and is %s", handle, got)
				}
				if diff := cmp.Diff(want, h.listed()); diff != "" {
					t.Errorf("nft list table (-want +got):\n%s", diff)
				}
				lost := made || strings.Contains(hm.script, "delete counter")
				if after, err := h.counters(); err != nil || after.Packets() < before.Packets() && !lost {
					t.Errorf("counters went from %+v to %+v, %v", before, after, err)
				}
				h.apply(block.Without(list("62.0.0.0/7")), allow)
				h.Check("refreshed", blocked[:2], open)
			})
		}
	}
}
