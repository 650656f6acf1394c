package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/e2e/bench/page"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// TestPageOnly checks that -page writes the page beside the figures, and changes no page of the
// repository if that is another directory than docs.
func TestPageOnly(t *testing.T) {
	t.Parallel()
	const readme = "../../README.md"
	before, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	r := &result.Result{Plan: "full"}
	r.Add(result.Case{Measure: result.Record}, result.Agent, 4.5)
	dir := t.TempDir()
	if err := save(filepath.Join(dir, page.Figures), r); err != nil {
		t.Fatal(err)
	}
	if err := bench(t.Context(), []string{"-page", "-root", "../..", "-out", dir}, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "performance.md"))
	if err != nil || !strings.Contains(string(text), "takes 4.50 µs") {
		t.Errorf("page: %v\n%s", err, text)
	}
	if after, err := os.ReadFile(readme); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the README has changed: %v", err)
	}
}

func TestRefusesArguments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-other"}, {"extra"}, {"-page", "-out", "does/not/exist"}} {
		if err := bench(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
