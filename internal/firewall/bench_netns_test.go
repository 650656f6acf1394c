package firewall

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// BenchmarkApply applies two lists in turn, of three sizes and with each backend: lists that have
// nothing in common, lists that differ in 1% of their entries, and equal lists. It reports the time
// per entry and, for the iptables backends, the ratio to the time of nftables.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{5_000, 50_000, 500_000} {
		list, others := big(n).Prefixes(), big(n+1).Prefixes()
		for _, change := range []struct {
			name      string
			exchanged int // entries
		}{{"whole", n}, {"1%", n / 100}, {"equal", 0}} {
			next := slices.Clone(others)
			if change.exchanged < n {
				next = slices.Clone(list)
				for i := range change.exchanged { // of all widths
					next[i*len(next)/change.exchanged] = others[i*len(others)/change.exchanged]
				}
			}
			lists := []blocklist.Blocklist{blocklist.New(slices.Clone(list)), blocklist.New(next)}
			var first time.Duration // an Apply of nftables
			for _, k := range kinds() {
				b.Run(fmt.Sprintf("%d/%s/%s", n, change.name, k.name), func(b *testing.B) {
					each := benchmarkApply(b, k, lists)
					b.ReportMetric(float64(each)/float64(n), "ns/entry")
					if k.info == "nftables" {
						first = each
					} else if first > 0 {
						b.ReportMetric(float64(each)/float64(first), "x-nftables")
					}
				})
			}
		}
	}
}

// benchmarkApply applies the lists in turn, and returns the duration of one Apply. The first Apply
// is not measured.
func benchmarkApply(b *testing.B, k kind, lists []blocklist.Blocklist) time.Duration {
	b.Helper()
	ns := nettest.New(b)
	var fw Backend
	var err error
	ns.Do(func() { fw, err = k.open(true) })
	if err != nil {
		b.Fatal(err)
	}
	defer func() { ns.Do(func() { _ = fw.Remove() }); _ = fw.Close() }()
	apply := func(l blocklist.Blocklist) {
		var e ruleset.Evidence
		ns.Do(func() { e, err = fw.Apply(b.Context(), wanted(l, list("10.0.0.0/8"))) })
		if err != nil || e.Entries() != l.Len() || !e.Counted {
			b.Fatalf("apply: %+v, %v", e, err)
		}
	}
	apply(lists[1])
	b.ResetTimer()
	for i := range b.N {
		apply(lists[i%2])
	}
	b.StopTimer()
	return b.Elapsed() / time.Duration(b.N)
}
