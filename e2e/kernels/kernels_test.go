package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestResults reads the serial line of a machine. A suite passed only if it ran to its end and no
// test failed.
func TestResults(t *testing.T) {
	t.Parallel()
	const boot = "@@ booted 6.1.0\r\n"
	tests := []struct {
		name string
		said string
		want []string // of the suites nft and demo
		ok   bool
	}{
		{
			"OK",
			boot +
				"@@ begin nft\n--- PASS: TestA (0.01s)\n    --- PASS: TestA/b (0.00s)\n" +
				"=== NAME  TestC\r\n    c_test.go:1: no owners\r\n=== NAME  TestD\n    d_test.go:1: hm\n" +
				"--- SKIP: TestC (0.00s)\r\n@@ end nft 0\r\n@@ begin demo\nhello\n@@ end demo 0\n",
			[]string{
				"2 passed   0 failed   1 skipped     0s  ok\n      skipped: TestC: no owners",
				"0 passed   0 failed   0 skipped",
			},
			true,
		},
		{
			"bad test",
			boot +
				"@@ begin nft\n--- PASS: TestA (0.01s)\n--- FAIL: TestB (0.01s)\n    b_test.go:1: oh\n@@ end nft 1\n" +
				"@@ begin demo\n@@ end demo 0\n",
			[]string{"FAILED, exit code 1", "ok"},
			false,
		},
		{
			"bad panic: no test is reported as failed",
			boot + "@@ begin nft\n--- PASS: TestA (0.01s)\npanic: oh\n@@ end nft 2\n@@ begin demo\n@@ end demo 0\n",
			[]string{"FAILED, exit code 2", "ok"},
			false,
		},
		{
			"bad no test ran", boot + "@@ begin nft\nPASS\n@@ end nft 0\n@@ begin demo\n@@ end demo 0\n",
			[]string{"FAILED, exit code 0", "ok"},
			false,
		},
		{
			"bad took too long",
			boot + "@@ begin nft\n--- PASS: TestA (0.01s)\n@@ end nft 124\n@@ begin demo\n@@ end demo 0\n",
			[]string{"took too long", "ok"},
			false,
		},
		{
			"bad cut off", boot + "@@ begin nft\n--- PASS: TestA (0.01s)\n",
			[]string{"DID NOT RUN", "DID NOT RUN"},
			false,
		},
		{"bad no boot", "", []string{"DID NOT RUN", "DID NOT RUN"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			r := reader{
				kernel: "6.1", wanted: []suite{{name: "nft", dir: "x"}, {name: "demo", args: []string{"demo"}}},
				logs: t.TempDir(), out: &out,
			}
			if err := r.read(strings.NewReader(tt.said)); err != nil {
				t.Fatal(err)
			}
			all, bad := r.results()
			if bad == tt.ok {
				t.Errorf("bad: got %v", bad)
			}
			if err := summarize(&out, all); (err == nil) != tt.ok {
				t.Errorf("summarize: got %v", err)
			}
			for i, want := range tt.want {
				if got := all[i].String(); !strings.Contains(got, want) {
					t.Errorf("got %q, want %q in it", got, want)
				}
			}
			if strings.Contains(tt.said, "b_test.go") && !strings.Contains(out.String(), "b_test.go:1: oh") {
				t.Errorf("the reason of a failure is not printed:\n%s", out.String())
			}
		})
	}
}

// TestGuestScript checks that each suite runs in its directory, and that the reason of each
// omission is printed.
func TestGuestScript(t *testing.T) {
	t.Parallel()
	script := guestScript(suites())
	for _, s := range suites() {
		for _, want := range []string{"\necho '@@ begin " + s.name + "'\n", "\necho \"@@ end " + s.name + " $?\"\n"} {
			if !strings.Contains(script, want) {
				t.Errorf("no %q in\n%s", want, script)
			}
		}
		if (s.skip == "") != (s.without == "") {
			t.Errorf("%s: tests are not run without a reason, or the other way round", s.name)
		}
	}
}

// TestSuitesNameRealTests checks that each test and scenario that a suite names exists. A pattern of
// -test.run that matches nothing would leave out the test without a word.
func TestSuitesNameRealTests(t *testing.T) {
	t.Parallel()
	tests := regexp.MustCompile(`\bTest\w+`)
	scenarios := regexp.MustCompile(`\^TestScripts\$/\^\(?([\w|]+)\)?\$`)
	for _, s := range suites() {
		dir := filepath.Join("../..", s.dir)
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var code []byte
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			code = append(code, raw...)
		}
		text := strings.Join([]string{s.run, s.skip, s.quick, s.smaller}, "\n")
		for _, name := range tests.FindAllString(text, -1) {
			if !bytes.Contains(code, []byte("\nfunc "+name+"(")) {
				t.Errorf("%s names %s, which does not exist", s.name, name)
			}
		}
		for _, found := range scenarios.FindAllStringSubmatch(text, -1) {
			for name := range strings.SplitSeq(found[1], "|") {
				if _, err := os.Stat(filepath.Join(dir, "testdata", name+".txtar")); err != nil {
					t.Errorf("%s names the scenario %s: %v", s.name, name, err)
				}
			}
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	got, err := choose([]string{"6.1", "5.10"})
	if diff := cmp.Diff([]string{"bookworm", "bullseye"}, names(got)); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range [][]string{nil, {"6.2"}, {"6.1", ""}} {
		if got, err := choose(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// TestMatching checks that only suites that match run, and only the selected tests of them.
func TestMatching(t *testing.T) {
	t.Parallel()
	all := []suite{{name: "nft", run: "^TestA$"}, {name: "host"}, {name: "demo", args: []string{"demo"}}}
	for _, tt := range []struct {
		pattern, tests string
		want           string
	}{
		{"", "", "nft=^TestA$ host= demo="},
		{"^(nft|demo)$", "TestB", "nft=TestB demo="},
	} {
		got, err := matching(all, tt.pattern, tt.tests)
		var said []string
		for _, s := range got {
			said = append(said, s.name+"="+s.run)
		}
		if text := strings.Join(said, " "); text != tt.want || err != nil {
			t.Errorf("%q %q: got %q, %v; want %q", tt.pattern, tt.tests, text, err, tt.want)
		}
	}
	for _, bad := range []string{"none", "("} {
		if got, err := matching(all, bad, ""); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func names(rr []release) (suites []string) {
	for _, r := range rr {
		suites = append(suites, r.suite)
	}
	return suites
}
