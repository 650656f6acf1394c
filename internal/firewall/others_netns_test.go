package firewall

import (
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestOtherBackendStays has rules of a dead agent with another backend that cannot be removed,
// because a rule of another program refers to them. That does not fail the list, which is active.
// Info returns the gap until the rules are removed, which is attempted with each list.
func TestOtherBackendStays(t *testing.T) {
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
	check := func(when string, want bool) {
		t.Helper()
		gaps := strings.Join(h.fw.Info().Gaps, "|")
		if strings.Contains(gaps, "an agent with another SIKKER_BACKEND") != want || strings.Contains(gaps, "\n") {
			t.Errorf("%s: gaps: %s", when, gaps)
		}
	}
	check("opened", false)
	for range 2 {
		h.apply(list("203.0.113.10"), list())
		check("applied", true)
		h.Check("applied", nettest.Addrs("203.0.113.10"), nettest.Addrs("203.0.113.9"))
	}
	h.Run("iptables-nft", "-t", "raw", "-D", "OUTPUT", "-j", "SIKKERGUARD")
	h.apply(list("203.0.113.10"), list())
	check("removed", false)
	h.remove()
	h.same("removed", before)
}
