package nft

import (
	"slices"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/lock"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestNoLock has another user hold the name of the lock. The agent starts. On a kernel without
// table owners, where only the lock keeps a second agent away, that is a gap.
func TestNoLock(t *testing.T) {
	t.Parallel()
	h := &host{Host: nettest.NewHost(t), tb: t}
	h.BindAsNobody(lockName)
	h.open(Options{})
	if h.table.flags != 0 && slices.Contains(h.table.Info().Gaps, lock.Gap) {
		t.Errorf("gaps with an owner: %q", h.table.Info().Gaps)
	}
	h.table.flags = 0 // as on a kernel without owner
	if !slices.Contains(h.table.Info().Gaps, lock.Gap) {
		t.Errorf("gaps without an owner: %q", h.table.Info().Gaps)
	}
}
