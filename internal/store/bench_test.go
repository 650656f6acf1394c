package store_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/store"
)

// cpuTime returns the CPU time of this process. On a busy machine it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkAddHits measures the time of one hit, in transactions of some hits: of new sources, of
// sources that have rows already, of 50,000 in no order and in the order of their addresses, as the
// recorder has them, and of new sources when the queue is full.
func BenchmarkAddHits(b *testing.B) {
	for _, bench := range []struct {
		name    string
		hits    int // in a transaction
		sources int // the hits come from these in turn
		most    int // hits in one database; the queue is full after 100,000
	}{
		{"new/500", 500, 1 << 22, 80_000},
		{"new/2000", 2000, 1 << 22, 80_000},
		{"known/500", 500, 500, 1 << 30},
		{"among50000/500", 500, 50_000, 1 << 30},
		{"among50000/2000", 2000, 50_000, 1 << 30},
		{"sorted50000/2000", 2000, 50_000, 1 << 30},
		{"full/2000", 2000, 1 << 22, 1 << 30},
	} {
		b.Run(bench.name, func(b *testing.B) {
			random := rand.New(rand.NewPCG(1, 2))
			sources := make([]netip.Addr, bench.sources)
			for i := range sources {
				n := random.Uint32()
				sources[i] = netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
			}
			if strings.HasPrefix(bench.name, "sorted") {
				slices.SortFunc(sources, netip.Addr.Compare)
			}
			hits := make([]store.Hit, bench.hits)
			s := open(b, b.TempDir())
			b.ReportAllocs()
			b.ResetTimer()
			began := cpuTime(b)
			for next := 0; next < b.N; next += len(hits) {
				if next%bench.most == 0 && next > 0 {
					s = open(b, b.TempDir())
				}
				for i := range hits {
					hits[i] = store.Hit{
						Source: sources[(next+i)%len(sources)], Protocol: 6, Port: 22, Service: "ssh", Packets: 1,
					}
				}
				add(b, s, noon.Add(time.Duration(next/90_000)*time.Hour), hits...)
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkAdd adds two million hits of 50,000 sources to the store in windows of 5,000. It reports
// the highest resident memory of the process in MiB.
func BenchmarkAdd(b *testing.B) {
	for range b.N {
		s := open(b, b.TempDir())
		rng := rand.New(rand.NewPCG(1, 1))
		hits := make([]store.Hit, 5000)
		for w := range 400 { // as many as fit into an hour and more
			for i := range hits {
				n := rng.IntN(50_000)
				hits[i] = store.Hit{
					Source: netip.AddrFrom4([4]byte{5, 0, byte(n >> 8), byte(n)}), Protocol: 6, Port: 22,
					Service: "ssh", Packets: 1,
				}
			}
			add(b, s, noon.Add(time.Duration(w)*10*time.Second), hits...)
		}
	}
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(ru.Maxrss)/1024, "peak-MiB")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2_000_000, "ns/hit")
}
