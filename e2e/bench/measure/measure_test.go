package measure

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

func TestParseHistory(t *testing.T) {
	t.Parallel()
	got, err := parseHistory("C0000201 47\n20010DB8000000000000000000000001 2\n")
	want := map[netip.Addr]int{netip.MustParseAddr("192.0.2.1"): 47, netip.MustParseAddr("2001:db8::1"): 2}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"C0000201\n", "XX 1\n", "C000 1\n", "Error: no such table: hits\n"} {
		if _, err := parseHistory(bad); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestPerHit(t *testing.T) {
	t.Parallel()
	const out = "BenchmarkAdd-2   \t       1\t54321000000 ns/op\t     27160 ns/hit\t       61.2 peak-MiB\nPASS\n"
	if ns, err := perHit(out); err != nil || ns != 27160 {
		t.Errorf("%v, %v; want 27160", ns, err)
	}
	if _, err := perHit("PASS\n"); err == nil {
		t.Error("a benchmark that did not run is no error")
	}
}

func TestMetric(t *testing.T) {
	t.Parallel()
	const text = "# HELP a_sum x\na_sum_other 3\na_sum 1.5e-2\nb{l=\"x\"} 4\n"
	if v, err := metric(text, "a_sum"); err != nil || v != 0.015 {
		t.Errorf("%v, %v; want 0.015", v, err)
	}
	if _, err := metric(text, "b"); err == nil {
		t.Error("a metric with labels is taken for one without")
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for out, want := range map[string]string{
		"iptables v1.8.9 (nf_tables)\n":       "1.8.9 (nf_tables)",
		"ipset v7.17, protocol version: 7\n":  "7.17",
		"nftables v1.0.6 (Lester Gooch #5)\n": "1.0.6 (Lester Gooch #5)",
		"other\n":                             "other",
	} {
		if got := version(out); got != want {
			t.Errorf("version(%q) = %q, want %q", out, got, want)
		}
	}
}

// TestMachine checks that the machine of a run has a name.
func TestMachine(t *testing.T) {
	t.Parallel()
	m, err := Machine(t.Context())
	if err != nil {
		t.Skip(err) // a peer is not installed
	}
	if m.CPU == "" || m.Cores < 1 || m.Kernel == "" || m.Go == "" || m.System == "" || m.Memory < 1 {
		t.Errorf("machine %+v", m)
	}
}

func TestRunRefusesUnknownParts(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := &Bench{Plan: Tiny(), Log: &log, Result: &result.Result{}}
	if err := b.Run(t.Context(), []string{"misspelt"}); err == nil || !strings.Contains(err.Error(), "misspelt") {
		t.Errorf("error %v", err)
	}
}
