package iptables

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestRateChanges changes the log rate of active rules. The new rate limits the copies, not the
// rate that the kernel remembers.
func TestRateChanges(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			for _, rate := range []uint32{3, 7_000} { // the match limit has neither rate
				rs := desired(list("203.0.113.0/24"), list())
				rs.LogRate = rate
				mustApply(t, h, f, rs)
			}
			for i := range 100 { // the first packet of each source is copied
				h.Send(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), "knock")
			}
			h.Settle()
			out := h.Run("iptables-"+kind+"-save", "--counters", "--table", "raw")
			if !regexp.MustCompile(`(?m)^\[100:\d+\] .*-j NFLOG`).MatchString(out) {
				t.Errorf("not all of 100 packets were copied:\n%s", out)
			}
		})
	}
}

// TestMissingRateMatch opens where the match of the log rate is missing. Open fails and names the
// module, before a list depends on it. A rate with the other match works there.
func TestMissingRateMatch(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	dirs := programs(t, legacy4[:3]...)
	program(t, dirs[0], legacy4[3], `rules=$(cat)
case "$rules" in *hashlimit*)
	echo "Couldn't load match hashlimit" >&2
	exit 2
esac
echo "$rules" | exec /usr/sbin/`+legacy4[3]+` "$@"`)
	opened := func(rate uint32) (err error) {
		h.Do(func() {
			var f *Firewall
			if f, err = open(Options{Legacy: true, LogRate: rate}, dirs); err == nil {
				err = f.Close()
			}
		})
		return err
	}
	if err := opened(10_000); err != nil {
		t.Errorf("a rate of the match limit: %v", err)
	}
	if err := opened(7_000); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), " xt_hashlimit ") {
		t.Errorf("a rate of the match hashlimit: got %v", err)
	}
}
