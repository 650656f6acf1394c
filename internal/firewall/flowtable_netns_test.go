package firewall

import (
	"strings"
	"testing"
)

// TestFlowtableGap checks that Info returns a gap while another program offloads flows, which then
// pass before the rules.
func TestFlowtableGap(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, k)
			h.start()
			check := func(when string, want bool) {
				t.Helper()
				gaps := strings.Join(h.fw.Info().Gaps, "|")
				if strings.Contains(gaps, "flowtable fast of table router") != want {
					t.Errorf("%s: gaps: %s", when, gaps)
				}
			}
			h.apply(list("203.0.113.9"), list())
			check("without one", false)
			h.Run("nft", "add", "table", "inet", "router")
			add := `nft add flowtable inet router fast '{ hook ingress priority 0; devices = { sg0 }; }' 2>&1 || true`
			if out := h.Run("sh", "-c", add); strings.Contains(out, "No such file") {
				t.Logf("this kernel has no flowtables (internal/firewall/nft tests the decoding): %s", out)
				h.remove()
				return
			}
			h.apply(list("203.0.113.10"), list())
			check("with one", true)
			h.Run("nft", "delete", "table", "inet", "router")
			h.apply(list("203.0.113.9"), list())
			check("deleted", false)
			h.remove()
		})
	}
}
