package nft

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// TestForeignTable starts with a table of the agent's name that another program made. Info names
// its parts before the first list replaces it. If the agent stops before that, the table stays as
// it is, Admit does not change it, and it is not in force. Cleanup names the parts that it removed.
func TestForeignTable(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	add := func() string {
		h.Run("nft", "add table inet sikkerguard; "+
			"add chain inet sikkerguard mine { type filter hook input priority 0; }; "+
			"add chain inet sikkerguard prerouting; add rule inet sikkerguard prerouting accept; "+
			"add set inet sikkerguard theirs { type ipv4_addr; }; add counter inet sikkerguard c")
		return h.Run("nft", "list", "table", "inet", tableName)
	}
	gap := func() string { return strings.Join(h.table.Info().Gaps, "; ") }
	reopen := func() {
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.open(Options{})
	}
	before := add()
	reopen()
	if g := gap(); !strings.Contains(g, "chain mine, set theirs, object c") {
		t.Errorf("gaps: %q", g)
	}
	h.Do(func() {
		rs := ruleset.Ruleset{Allow: list("203.0.113.8")}
		for _, admit := range []func() error{
			func() error { return h.table.Admit(t.Context(), rs) },
			func() error { return Admit(rs) },
		} {
			if err := admit(); err != nil {
				t.Errorf("admit: %v", err)
			}
		}
		if active, err := InForce(); active || err != nil {
			t.Errorf("in force: %v, %v", active, err)
		}
		if err := h.table.Disarm(); err != nil {
			t.Errorf("disarm: %v", err)
		}
		if err := h.table.Remove(); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	if diff := cmp.Diff(before, h.Run("nft", "list", "table", "inet", tableName)); diff != "" {
		t.Errorf("table after a stop before the first list (-want +got):\n%s", diff)
	}
	h.apply(list("203.0.113.9"), list())
	if g := gap(); strings.Contains(g, "mine") {
		t.Errorf("gaps after the first list: %q", g)
	}
	h.Do(func() {
		if err := h.table.Remove(); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	if tables := h.Run("nft", "list", "tables"); tables != "" {
		t.Errorf("left behind: %s", tables)
	}
	add()
	if err := h.table.Close(); err != nil {
		t.Fatal(err)
	}
	h.Do(func() {
		removed, err := Cleanup()
		want := "table inet sikkerguard (with chain mine, set theirs, object c of another program)"
		if removed != want || err != nil {
			t.Errorf("cleanup: %q, %v, want %q", removed, err, want)
		}
	})
	if tables := h.Run("nft", "list", "tables"); tables != "" {
		t.Errorf("tables after cleanup: %s", tables)
	}
}
