package ipset

import (
	"regexp"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestRateChanges changes the log rate of rules that are in force: what is copied is limited by the new rate, not by the
// one that the kernel remembers.
func TestRateChanges(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			s := startKind(t, h, kind)
			for _, rate := range []uint32{3, 7_000} { // neither is a rate of the match limit
				rs := desired(list("203.0.113.9/32"), list())
				rs.LogRate = rate
				h.Do(func() {
					if _, err := s.Apply(t.Context(), rs); err != nil {
						t.Error(err)
					}
				})
			}
			for range 100 {
				h.Send(nettest.Addrs("203.0.113.9")[0], "knock")
			}
			h.Settle()
			out := h.Run("iptables-"+kind+"-save", "--counters", "--table", "raw")
			if !regexp.MustCompile(`(?m)^\[100:\d+\] .*-j NFLOG`).MatchString(out) {
				t.Errorf("not all of 100 packets were copied:\n%s", out)
			}
		})
	}
}
