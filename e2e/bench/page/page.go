// Package page writes docs/performance.md and its plots from the figures of a run, and the claims
// about speed in the other pages.
package page

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// Names of the files in the directory of the page.
const (
	Figures = "performance.json"
	page    = "performance.md"
)

// Write writes the page and its plots into the directory out. If that is the directory docs of the
// repository at root, it also updates the claims in the other pages.
func Write(root, out string, r *result.Result) error {
	files, err := Files(r)
	if err != nil {
		return err
	}
	for name, raw := range files {
		if err := os.WriteFile(filepath.Join(out, name), raw, 0o644); err != nil {
			return err
		}
	}
	docs, err := os.Stat(filepath.Join(root, "docs"))
	if err != nil {
		return err
	}
	if here, err := os.Stat(out); err != nil || !os.SameFile(docs, here) {
		return err
	}
	return writeClaims(root, r)
}

// writeClaims updates the claims in the pages of the repository.
func writeClaims(root string, r *result.Result) error {
	pages, err := Pages(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range pages {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text, err := Claim(string(raw), r)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
			continue
		}
		if text != string(raw) {
			errs = append(errs, os.WriteFile(path, []byte(text), 0o644))
		}
	}
	return errors.Join(errs...)
}

// Pages returns the pages that may have claims: the README and those in docs, apart from the page
// that this package writes.
func Pages(root string) ([]string, error) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	all := []string{filepath.Join(root, "README.md")}
	for _, p := range pages {
		if filepath.Base(p) != page {
			all = append(all, p)
		}
	}
	return all, nil
}

// Files returns the page and its plots by name.
func Files(r *result.Result) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, p := range plots() {
		raw, err := p.draw(r)
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", p.name, err)
		}
		if raw != nil {
			files[p.name] = raw
		}
	}
	files[page] = []byte(text(r, files))
	return files, nil
}

// text returns the page. Its plots are among files.
func text(r *result.Result, files map[string][]byte) string {
	var b strings.Builder
	say := func(lines ...string) { b.WriteString(strings.Join(lines, "\n") + "\n\n") }
	say("# Performance")
	say("`make bench` measured every figure of this page in one run and wrote the page, its plots and the claims",
		"about speed in the other pages. The figures of each round are in ["+Figures+"]("+Figures+").",
		"`make bench-quick` takes some minutes, with fewer lists and rounds, and writes into bin/bench-quick. Both",
		"need root, and work in network namespaces of their own.")
	if r.Plan != "full" {
		say("**These figures are of a " + r.Plan + " run**, with fewer lists and rounds.")
	}
	say(machine(r))
	say("Compare ratios, not times: they change less from one machine to another. A ratio is the median of the",
		"ratios of all rounds. In a round the contestants are measured one after the other, and the order changes",
		"from round to round. Other figures are medians.")
	for _, s := range sections() {
		body := s.body(r)
		if body == "" {
			continue
		}
		say("## " + s.title)
		if s.before != "" {
			say(strings.TrimSpace(s.before))
		}
		for _, name := range s.plots {
			if files[name] != nil {
				say("![" + s.title + "](" + name + ")")
			}
		}
		say(strings.TrimRight(body, "\n"))
		if s.after != "" {
			say(strings.TrimSpace(s.after))
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// machine describes the machine and the run.
func machine(r *result.Result) string {
	m := r.Machine
	rows := [][]string{
		{"processor", fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)},
		{"memory", number(float64(m.Memory)/1024) + " GiB"},
		{"system", fmt.Sprintf("%s, Linux %s", m.System, m.Kernel)},
		{"compiler", m.Go},
		{"peers", fmt.Sprintf("iptables %s, ipset %s, nftables %s", m.Peers["iptables"], m.Peers["ipset"],
			m.Peers["nft"])},
		{"run", fmt.Sprintf("%s, commit %s, %s", r.Time.Format("2 January 2006 15:04 UTC"), r.Commit, r.Took)},
	}
	return strings.TrimRight(table([]string{"machine", ""}, rows), "\n")
}
