package firewall

import (
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestOtherStays has rules of a dead agent with another backend refuse to go, because a rule of somebody else's refers to
// them: that is no failure of the list, which is in force. The gap is told until they have gone, and it is tried again with
// each list.
func TestOtherStays(t *testing.T) {
	t.Parallel()
	h := newHost(t, kinds()[1])
	before := h.snapshot()
	h.start()
	h.apply(list("203.0.113.9"), list())
	if err := h.fw.Close(); err != nil {
		t.Fatal(err)
	}
	h.Run("iptables-nft", "-t", "raw", "-A", "OUTPUT", "-j", "SIKKERGUARD")
	h.kind = kinds()[0]
	h.start()
	told := func(when string, want bool) {
		t.Helper()
		if gaps := strings.Join(h.fw.Info().Gaps, "|"); strings.Contains(gaps, "another SIKKER_BACKEND left") != want || strings.Contains(gaps, "\n") {
			t.Errorf("%s: gaps: %s", when, gaps)
		}
	}
	told("opened", false)
	for range 2 {
		h.apply(list("203.0.113.10"), list())
		told("applied", true)
		h.Check("applied", nettest.Addrs("203.0.113.10"), nettest.Addrs("203.0.113.9"))
	}
	h.Run("iptables-nft", "-t", "raw", "-D", "OUTPUT", "-j", "SIKKERGUARD")
	h.apply(list("203.0.113.10"), list())
	told("gone", false)
	h.remove()
	h.same("removed", before)
}
