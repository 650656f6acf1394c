package observe

import (
	"testing"
	"time"
)

// BenchmarkJoin makes hits of one reading of the counts of 50,000 keys, of which a tenth are new.
func BenchmarkJoin(b *testing.B) {
	const keys = 50_000
	k := newToyKernel()
	o, _, _ := newTestObserver(b, k)
	o.o.Sinks = nil
	var total uint64
	for b.Loop() {
		b.StopTimer()
		for i := range keys {
			h := knock(source(i), 22)
			k.dropped += 3
			k.counts[keyOf(h)] += 3
			if i%10 == 0 {
				k.log(h)
			}
		}
		b.StartTimer()
		o.reader.pace.next = time.Time{}
		o.collect(false)
		total += 3 * keys
	}
	if e, _, _ := o.account.read(); e.Seen != total || e.Overflow != 0 {
		b.Fatalf("%+v of %d packets", e, total)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
}
