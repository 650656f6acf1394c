package result

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedianAndSpread(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values         []float64
		median, spread float64
	}{
		{[]float64{7}, 7, 0},
		{[]float64{3, 1}, 2, 0.25},
		{[]float64{5, 1, 3}, 3, 1.0 / 3},
		{[]float64{100, 90, 110, 105, 95}, 100, 0.05},
		{[]float64{1, 1, 1, 1, 900}, 1, 0}, // an outlier changes neither
	} {
		if m, s := Median(tt.values), Spread(tt.values); math.Abs(m-tt.median) > 1e-9 || math.Abs(s-tt.spread) > 1e-9 {
			t.Errorf("%v: median %v and spread %v, want %v and %v", tt.values, m, s, tt.median, tt.spread)
		}
	}
	if !math.IsNaN(Median(nil)) || !math.IsNaN(Spread(nil)) {
		t.Error("no values have a median or spread")
	}
}

// TestRatioIsByRound checks that a ratio compares values of the same round, so that a machine that
// gets slower during the run does not change it.
func TestRatioIsByRound(t *testing.T) {
	t.Parallel()
	r := &Result{}
	c := Case{Measure: Blocked, Entries: 5}
	r.Add(c, Agent, 50, 60, 500)
	r.Add(c, IPSet, 100, 120, 1000, 1) // the last has no partner
	if got, ok := r.Ratio(c, Agent, IPSet); !ok || got != 0.5 {
		t.Errorf("ratio %v, %v; want 0.5", got, ok)
	}
	if _, ok := r.Ratio(c, Agent, XDP); ok {
		t.Error("ratio to a contestant without values")
	}
	if _, ok := r.Ratio(Case{Measure: Passing}, Agent, IPSet); ok {
		t.Error("ratio in a case without values")
	}
	if _, ok := r.Median(Case{Measure: Passing}, Agent); ok {
		t.Error("median in a case without values")
	}
}

func TestSignificant(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]float64{
		0: 0, 1234567: 1234600, 0.000123456789: 0.00012346, 99999.6: 100000, -12.34567: -12.346, 500000: 500000,
	} {
		if got := significant(v); math.Abs(got-want) > math.Abs(want)*1e-12 {
			t.Errorf("significant(%v) = %v, want %v", v, got, want)
		}
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	r := &Result{
		Time: time.Date(2026, 2, 24, 10, 0, 0, 0, time.UTC), Commit: "abc",
		Machine: Machine{CPU: "Test", Cores: 2, Peers: map[string]string{"nft": "1"}},
	}
	r.Add(Case{Measure: Blocked, Family: 4, Shape: "mixed", Entries: 5}, Agent, 1, 2.5)
	r.Add(Case{Measure: Passing}, IPSet, 3)
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "result.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatalf("read what was encoded: %v\n%s", err, raw)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("after encoding and reading (-want +got):\n%s", diff)
	}
	if _, err := Read(path + ".none"); err == nil {
		t.Error("a missing file is no error")
	}
	if want := []Case{{Measure: Passing}}; !cmp.Equal(got.Cases(Passing), want) {
		t.Errorf("cases %v, want %v", got.Cases(Passing), want)
	}
}
