package blocklist_test

import (
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

func TestEntries(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 entries", 1: "1 entry", 2: "2 entries"} {
		if got := blocklist.Entries(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}
