// Command kernels boots kernels of Debian in qemu and runs the kernel-dependent tests in each:
// those of both firewall backends, the sensor and the host, the demo, and the scenarios. It prints
// one line per kernel and suite, and exits with 1 if a test failed or a suite did not run.
//
// It is run by `make kernels`, as root, from the root of the repository.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var names []string
	for _, r := range releases() {
		names = append(names, r.kernel)
	}
	kernels := flag.String("kernels", strings.Join(names, " "), "kernels to boot, separated by spaces")
	only := flag.String("suites", "", "regular expression of the suites to run; empty for all")
	tests := flag.String("run", "", "tests to run of these suites, a pattern of `go test -run`; empty for all")
	quick := flag.Bool("quick", false, "run only a part of the slow suites, as in CI")
	cache := flag.String("cache", "bin/.kernels", "directory of the images and logs")
	flag.Parse()
	all := suites()
	if *quick {
		all = quickly(all)
	}
	wanted, err := matching(all, *only, *tests)
	if err == nil {
		err = kernelsPass(ctx, os.Stdout, strings.Fields(*kernels), wanted, *cache)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "kernels:", err)
		return 1
	}
	return 0
}

// matching returns the suites whose names match the pattern. If tests is not empty, each runs only
// these tests.
func matching(all []suite, pattern, tests string) ([]suite, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("read the pattern of suites: %w", err)
	}
	var wanted []suite
	for _, s := range all {
		if re.MatchString(s.name) {
			if s.args == nil { // the demo has no tests
				s.run = cmp.Or(tests, s.run)
			}
			wanted = append(wanted, s)
		}
	}
	if len(wanted) == 0 {
		return nil, fmt.Errorf("no suite matches %q", pattern)
	}
	return wanted, nil
}

// kernelsPass runs the suites in each of the kernels, one kernel at a time, and writes the results
// to out.
func kernelsPass(ctx context.Context, out io.Writer, kernels []string, wanted []suite, cache string) error {
	if os.Geteuid() != 0 {
		return errors.New("debootstrap needs root: run `sudo make kernels`")
	}
	chosen, err := choose(kernels)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	printOmissions(out, wanted)
	payload := filepath.Join(cache, "payload.tar")
	if err := pack(ctx, payload, wanted); err != nil {
		return fmt.Errorf("build the tests: %w", err)
	}
	var results []result
	for _, r := range chosen {
		img, err := r.image(ctx, out, cache)
		if err != nil {
			return fmt.Errorf("make the image of %s: %w", r.suite, err)
		}
		console := filepath.Join(cache, r.kernel+".console.log")
		m := machine{image: img, payload: payload, console: console, logs: cache, out: out}
		results = append(results, m.run(ctx, r.kernel, wanted)...)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return summarize(out, results)
}

// printOmissions prints the suites and tests that do not run, or run with smaller numbers.
func printOmissions(out io.Writer, wanted []suite) {
	_, _ = fmt.Fprintln(out, "smaller than on the machine itself: all suites: a flood sends a sixteenth of its packets")
	for _, s := range suites() {
		at := slices.IndexFunc(wanted, func(w suite) bool { return w.name == s.name })
		if at < 0 {
			_, _ = fmt.Fprintf(out, "not run, as -suites wants: %s\n", s.name)
			continue
		}
		if w := wanted[at]; w.run != s.run {
			_, _ = fmt.Fprintf(out, "of %s only %s is run, as -quick or -run wants\n", w.name, w.run)
		}
		if s.without != "" {
			_, _ = fmt.Fprintf(out, "not run in any kernel: %s %s: %s\n", s.name, s.skip, s.without)
		}
		if s.smaller != "" {
			_, _ = fmt.Fprintf(out, "smaller than on the machine itself: %s: %s\n", s.name, s.smaller)
		}
	}
}

// choose returns the releases that have these kernels.
func choose(kernels []string) ([]release, error) {
	var chosen []release
	var known []string
	for _, r := range releases() {
		known = append(known, r.kernel)
	}
	for _, k := range kernels {
		at := slices.Index(known, k)
		if at < 0 {
			return nil, fmt.Errorf("unknown kernel %q: there are %s", k, strings.Join(known, ", "))
		}
		chosen = append(chosen, releases()[at])
	}
	if len(chosen) == 0 {
		return nil, errors.New("no kernel is named")
	}
	return chosen, nil
}

// summarize prints all results again, together. The error names those that did not pass.
func summarize(out io.Writer, results []result) error {
	_, _ = fmt.Fprintln(out, "\nSummary")
	var bad []string
	for _, r := range results {
		_, _ = fmt.Fprintln(out, r)
		if !r.ok() {
			bad = append(bad, r.kernel+" "+r.suite)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not passed: %s", strings.Join(bad, ", "))
	}
	return nil
}
