package page

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/e2e/bench/measure"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// root is the root of the repository.
const root = "../../.."

// official returns the figures of docs/performance.json.
func official(t *testing.T) *result.Result {
	t.Helper()
	r, err := result.Read(filepath.Join(root, "docs", Figures))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPageIsOfTheFigures checks that docs/performance.md and its plots are what `make bench` wrote
// from docs/performance.json: no figure on the page was typed.
func TestPageIsOfTheFigures(t *testing.T) {
	t.Parallel()
	files, err := Files(official(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if strings.HasSuffix(name, ".svg") && runtime.GOARCH != "amd64" {
			continue // other processors round coordinates differently
		}
		got, err := os.ReadFile(filepath.Join(root, "docs", name))
		if err != nil {
			t.Errorf("run bin/bench -page: %v", err)
			continue
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("docs/%s is stale, run bin/bench -page (-figures +page):\n%.3000s", name, diff)
		}
	}
	plots, err := filepath.Glob(filepath.Join(root, "docs", "performance-*.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plots {
		if files[filepath.Base(p)] == nil {
			t.Errorf("%s is in no page", p)
		}
	}
}

// TestEverySpeedIsAClaimOfTheFigures checks the README and the other pages: each figure of speed is
// in a claim, and each claim has the text that the figures give.
func TestEverySpeedIsAClaimOfTheFigures(t *testing.T) {
	t.Parallel()
	r := official(t)
	pages, err := Pages(root)
	if err != nil || len(pages) < 10 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	found := 0
	for _, p := range pages {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Claim(string(raw), r)
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if diff := cmp.Diff(text, string(raw)); diff != "" {
			t.Errorf("%s: claims are stale, run bin/bench -page (-figures +page):\n%s", p, diff)
		}
		for _, line := range Unmarked(string(raw)) {
			t.Errorf("%s: a figure of speed that does not come from `make bench`: %s", p, line)
		}
		found += len(marked.FindAllString(string(raw), -1))
	}
	if found == 0 {
		t.Error("no page has a claim: the pattern is wrong")
	}
}

// example returns figures of a small run.
func example() *result.Result {
	r := &result.Result{Plan: "full", Machine: result.Machine{CPU: "Test CPU", Cores: 2}}
	batches := result.Case{
		Measure: result.Blocked, Family: 4, Shape: "mixed", Entries: 500_000, Variant: measure.InBatches,
	}
	r.Add(batches, result.Agent, 900) // no claim is about batches, whichever case comes first
	r.Add(batches, result.AgentIPT, 900)
	r.Add(batches, result.IPSet, 1000)
	for _, n := range []int{5_000, 500_000} {
		c := result.Case{Family: 4, Shape: "mixed", Entries: n}
		for m, v := range map[result.Measure][2]float64{
			result.Blocked: {500, 1000}, result.Passing: {950, 1000}, result.Whole: {600, 1200},
			result.Changed: {40, 20}, result.ChangedApply: {30, 20},
		} {
			c.Measure = m
			r.Add(c, result.Agent, v[0], v[0], v[0])
			r.Add(c, result.AgentIPT, 5*v[0])
			r.Add(c, result.IPSet, v[1], v[1], v[1])
			r.Add(c, result.XDP, v[1]/4)
		}
		c.Measure = result.Resident
		r.Add(c, result.Agent, 38.6)
	}
	r.Add(result.Case{Measure: result.Sources, Entries: 100, Variant: measure.Quiet}, result.Agent, 99)
	return r
}

func TestClaim(t *testing.T) {
	t.Parallel()
	r := example()
	for _, tt := range []struct{ name, text, want string }{
		{
			"OK two claims in a line",
			"It is <!-- bench blocked -->old<!-- /bench --> and <!-- bench iptables-refresh -->x<!-- /bench -->.",
			"It is <!-- bench blocked -->50%<!-- /bench --> and <!-- bench iptables-refresh -->5 times as long<!-- /bench -->.",
		},
		{
			"OK text over two lines", "<!-- bench refresh -->a\nb<!-- /bench -->",
			"<!-- bench refresh -->0.60 s for another list of 500,000 entries, and 0.04 s if 1% of them changed<!-- /bench -->",
		},
		{
			"OK in the kernel", "<!-- bench refresh-kernel -->x<!-- /bench -->, <!-- bench iptables-kernel -->y<!-- /bench -->",
			"<!-- bench refresh-kernel -->30 ms if 1% of 500,000 entries changed<!-- /bench -->, " +
				"<!-- bench iptables-kernel -->150 ms if 1% of 500,000 entries changed<!-- /bench -->",
		},
		{
			"OK iptables backend", "<!-- bench iptables-blocked -->x<!-- /bench -->",
			"<!-- bench iptables-blocked -->250%<!-- /bench -->",
		},
		{"OK figures are missing", "<!-- bench start -->1 s<!-- /bench -->", "<!-- bench start -->1 s<!-- /bench -->"},
		{"OK machine", "<!-- bench machine --><!-- /bench -->", "<!-- bench machine -->measured on Test CPU with 2 cores<!-- /bench -->"},
		{"OK none", "text", "text"},
	} {
		if got, err := Claim(tt.text, r); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := Claim("<!-- bench misspelt -->x<!-- /bench -->", r); err == nil {
		t.Error("an unknown claim is no error")
	}
}

func TestUnmarked(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"A lookup costs 30–60 ns.\n":                             1,
		"It takes 27 µs a hit.\n":                                1,
		"A refresh takes about five times as long.\n":            1,
		"500,000 entries load in under a second.\n":              1,
		"It blocks 40% faster.\n":                                1,
		"5,000 of 500,000 in 30 ms, a hundredth.\n":              1,
		"Exchanging 5,000 took the kernel 16 ms.\n":              1,
		"If a reading takes 100 ms, the next waits.\n":           0,
		"A <!-- bench blocked -->60 ns<!-- /bench --> packet.\n": 0,
		"Hits are recorded every second.\n":                      0,
		"The API answers in dns and ns records.\n":               0,
	} {
		if got := Unmarked(text); len(got) != want {
			t.Errorf("%q: %q, want %d", text, got, want)
		}
	}
}

// TestSummary checks that a goal is met only if every case meets it.
func TestSummary(t *testing.T) {
	t.Parallel()
	r := example()
	for _, want := range []string{
		"| blocked packet, agent listening, ratio to iptables + ipset in INPUT | 0.78–0.90 | ≤ 0.6 | **0.50** | yes |",
		"| passing packet, likewise | 0.66–1.05 | ≤ 0.9 | **0.95** | no |",
		"| resident at rest, 500,000 entries | 136 MiB | ≤ 40 MiB | **38.6 MiB** | yes |",
		"| flood of 200,000/s beside 100 quiet sources: quiet sources in the history | 76% | 100% | **99%** | no |",
		"| wake-ups a second at rest | 42–55 | ≤ 5 | **–** | – |",
	} {
		if got := summary(r); !strings.Contains(got, want+"\n") {
			t.Errorf("summary has no line %q:\n%s", want, got)
		}
	}
	r.Add(result.Case{Measure: result.Blocked, Family: 6, Shape: "mixed", Entries: 5_000}, result.Agent, 610)
	r.Add(result.Case{Measure: result.Blocked, Family: 6, Shape: "mixed", Entries: 5_000}, result.IPSet, 1000)
	if got := summary(r); !strings.Contains(got, "| **0.50–0.61** | no |") {
		t.Errorf("one case misses the goal, and the summary says:\n%s", got)
	}
	if got := summary(&result.Result{}); got != "" {
		t.Errorf("summary without figures: %q", got)
	}
}

// TestFiles checks the page of a run without some parts: what was not measured is left out.
func TestFiles(t *testing.T) {
	t.Parallel()
	files, err := Files(example())
	if err != nil {
		t.Fatal(err)
	}
	text := string(files[page])
	for _, want := range []string{
		"## A blocked packet", "](" + plotBlocked + ")", "| **0.50** |", "Test CPU, 2 cores", "## A new list",
		"| whole, 500,000 | 600 | 1,200 | – | 3,000 | **0.50** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q:\n%s", want, text)
		}
	}
	for _, not := range []string{"## Start", "## cs-firewall-bouncer", "NaN", "tiny run"} {
		if strings.Contains(text, not) {
			t.Errorf("the page has %q:\n%s", not, text)
		}
	}
	for _, name := range []string{plotBlocked, plotPassing, plotRefresh} {
		if !strings.Contains(string(files[name]), "</svg>") {
			t.Errorf("%s is no SVG", name)
		}
	}
	r := example()
	r.Plan = "quick"
	if files, err = Files(r); err != nil || !strings.Contains(string(files[page]), "of a quick run") {
		t.Errorf("the page does not say that the run was quick: %v", err)
	}
	if files, err = Files(&result.Result{}); err != nil || len(files) != 1 {
		t.Errorf("without figures: %d files, %v", len(files), err)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.123: "0.12", 9.876: "9.88", 12.34: "12.3", 100: "100", 123.4: "123", 1234: "1,230",
		1234567: "1,234,570", -1234: "-1,230",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{100: "100", 99.9999: "99.99", 4.6: "4.6", 0: "0", 82.434: "82.43"} {
		if got := percent(v); got != want {
			t.Errorf("percent(%v) = %s, want %s", v, got, want)
		}
	}
}
