//go:build !race

package store_test

import (
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/store"
)

// foldEnv names a directory. If it is set, the test binary adds two million hits to the store in
// that directory and exits.
const foldEnv = "SIKKERGUARD_TEST_FOLD"

// TestTwoMillionHits adds two million hits of 50,000 sources to the store in a separate process,
// whose resident memory stays below 100 MB. The race detector needs several times that, so this
// test is built without it.
func TestTwoMillionHits(t *testing.T) {
	if dir := os.Getenv(foldEnv); dir != "" {
		fold(t, open(t, dir))
		return
	}
	if testing.Short() {
		t.Skip("it takes a minute on a busy machine")
	}
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTwoMillionHits$")
	cmd.Env = append(os.Environ(), foldEnv+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const limit = 100_000_000 / 1024 // KiB
	if peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; peak > limit {
		t.Errorf("the peak of resident memory is %d KiB, more than %d", peak, limit)
	} else {
		t.Logf("the peak of resident memory is %d KiB, %v of CPU", peak,
			cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	batch, err := open(t, dir).Batch(t.Context(), 2*foldSources)
	if err != nil {
		t.Fatal(err)
	}
	var packets uint64
	for _, r := range batch {
		packets += r.Packets
	}
	if len(batch) != foldSources || packets != foldHits {
		t.Errorf("%d sources with %d packets are queued, want %d with %d", len(batch), packets, foldSources, foldHits)
	}
}

const foldSources, foldHits = 50_000, 2_000_000

// fold adds the hits in windows of all sources, in the order of the sensor.
func fold(t *testing.T, s *store.Store) {
	t.Helper()
	hits := make([]store.Hit, foldSources)
	for w := range foldHits / foldSources {
		for i := range hits {
			hits[i] = store.Hit{
				Source: netip.AddrFrom4([4]byte{5, 0, byte(i >> 8), byte(i)}), Protocol: 6, Port: uint16(22 + w%3),
				Service: "ssh", Packets: 1,
			}
		}
		add(t, s, noon.Add(time.Duration(w)*time.Minute), hits...)
	}
}
