package firewall

import (
	"fmt"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// BenchmarkApply loads and refreshes lists of three sizes with each backend. It reports the time
// per entry and, for the iptables backends, the ratio to the time of nftables.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{5_000, 50_000, 500_000} {
		var first time.Duration // an Apply of nftables
		for _, k := range kinds() {
			b.Run(fmt.Sprintf("%d/%s", n, k.name), func(b *testing.B) {
				ns := nettest.New(b)
				var fw Backend
				var err error
				ns.Do(func() { fw, err = k.open(true) })
				if err != nil {
					b.Fatal(err)
				}
				defer func() { ns.Do(func() { _ = fw.Remove() }); _ = fw.Close() }()
				l := big(n)
				b.ResetTimer()
				for range b.N {
					var e ruleset.Evidence
					ns.Do(func() { e, err = fw.Apply(b.Context(), wanted(l, list("10.0.0.0/8"))) })
					if err != nil || e.Entries() != l.Len() || !e.Counted {
						b.Fatalf("apply: %+v, %v", e, err)
					}
				}
				each := b.Elapsed() / time.Duration(b.N)
				b.ReportMetric(float64(each)/float64(l.Len()), "ns/entry")
				if k.info == "nftables" {
					first = each
				} else if first > 0 {
					b.ReportMetric(float64(each)/float64(first), "x-nftables")
				}
			})
		}
	}
}
