package iptables

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// halfway is a line of shell that makes the first n lines of a change by elements and then fails,
// once. Later changes are made whole.
func halfway(n int) string {
	return fmt.Sprintf(`if [ "$*" = restore ] && grep -q '^del' $in && [ ! -e $0.once ]; then
	: > $0.once; head -n %d $in > $in.part; /usr/sbin/ipset restore < $in.part; exit 1
fi`, n)
}

// fourChanges are two rulesets between which each set changes by its elements.
func fourChanges() [2]ruleset.Ruleset {
	stay := []string{"203.0.113.1/32", "203.0.113.64/26", "203.0.114.0/25", "2001:db8:f::1/128", "2001:db8:e::/64"}
	old := append(slices.Clone(stay), "203.0.113.9/32", "203.0.113.8/32", "198.51.100.0/26", "2001:db8:f::9/128")
	next := append(slices.Clone(stay), "203.0.113.0/26", "198.51.100.1/32", "203.0.115.7/32", "2001:db8:f::8/128")
	return [2]ruleset.Ruleset{
		desired(list(old...), list("10.0.0.0/8", "192.0.2.7/32")),
		desired(list(next...), list("10.0.0.0/8", "192.0.2.8/32")),
	}
}

// TestHalfwayIsMended makes ipset stop after each line of a change by elements. Apply fills whole
// sets then, and the ruleset is active, element by element.
func TestHalfwayIsMended(t *testing.T) {
	t.Parallel()
	for n := 1; n < 14; n += 2 {
		h, other := nettest.NewHost(t), nettest.NewHost(t)
		r := record(t, "legacy", halfway(n))
		f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
		rs := fourChanges()
		mustApply(t, h, f, rs[0])
		r.take()
		mustApply(t, h, f, rs[1])
		if runs, _ := r.take(); len(runs) < 2 || runs[0] != "ipset restore" || !strings.HasPrefix(runs[len(runs)-2], "ipset swap") {
			t.Errorf("after %d lines: %q", n, runs)
		}
		if got, want := elementsIn(t, h), filled(t, f, other, rs[1]); got != want {
			t.Errorf("after %d lines (-want +got):\n%s", n, cmp.Diff(want, got))
		}
		mustApply(t, h, f, rs[0]) // by elements again
		if got, want := elementsIn(t, h), filled(t, f, other, rs[0]); got != want {
			t.Errorf("after %d lines and back (-want +got):\n%s", n, cmp.Diff(want, got))
		}
	}
}

// TestHalfwayIsUndone makes ipset stop after each line of a change by elements, and refuse to fill
// sets. Apply returns an error that is no mismatch, and the old ruleset is active, element by
// element.
func TestHalfwayIsUndone(t *testing.T) {
	t.Parallel()
	for n := 1; n < 14; n += 3 {
		h, other := nettest.NewHost(t), nettest.NewHost(t)
		r := record(t, "legacy", halfway(n)+"\n[ -e $0.once ] && grep -q '^create .*-next ' $in && exit 1")
		f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
		rs := fourChanges()
		mustApply(t, h, f, rs[0])
		h.Do(func() {
			_, err := f.Apply(t.Context(), rs[1])
			if err == nil || errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("after %d lines: %v", n, err)
			}
			if _, err := f.Verify(); err != nil {
				t.Errorf("after %d lines: verify: %v", n, err)
			}
		})
		if got, want := elementsIn(t, h), filled(t, f, other, rs[0]); got != want {
			t.Errorf("after %d lines (-want +got):\n%s", n, cmp.Diff(want, got))
		}
		mustApply(t, h, f, rs[1]) // by elements
		if got, want := elementsIn(t, h), filled(t, f, other, rs[1]); got != want {
			t.Errorf("after %d lines and again (-want +got):\n%s", n, cmp.Diff(want, got))
		}
	}
}

// TestNotUndone makes ipset stop in the middle of a change by elements and refuse everything
// afterwards. Apply returns ErrMismatch. The next Apply fills whole sets, also if the sets have the
// right number of elements.
func TestNotUndone(t *testing.T) {
	t.Parallel()
	h, other := nettest.NewHost(t), nettest.NewHost(t)
	// The one deletion and the one addition of the blocklist are made, and its count is as before.
	r := record(t, "legacy", `if [ -e $0.refuse ]; then exit 1; fi
if [ "$*" = restore ] && grep -q '^del' $in && [ ! -e $0.once ]; then
	: > $0.once; : > $0.refuse; grep -v 4.4.4 $in > $in.part; /usr/sbin/ipset restore < $in.part; exit 1
fi`)
	f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
	old := desired(list("203.0.113.8/32", "4.4.4.4/32", "203.0.113.1/32"), list())
	next := desired(list("203.0.113.9/32", "4.4.4.5/32", "203.0.113.1/32"), list())
	mustApply(t, h, f, old)
	h.Do(func() {
		if _, err := f.Apply(t.Context(), next); !errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("not undone: got %v", err)
		}
	})
	if err := os.Remove(filepath.Join(r.dir, "ipset.refuse")); err != nil {
		t.Fatal(err)
	}
	mustApply(t, h, f, old)
	if got, want := elementsIn(t, h), filled(t, f, other, old); got != want {
		t.Errorf("rolled back (-want +got):\n%s", cmp.Diff(want, got))
	}
}

// TestChangesAreProven makes ipset change other elements than it is given, with exit code 0. Apply
// notices it, also if the number of elements is right, and fills whole sets.
func TestChangesAreProven(t *testing.T) {
	t.Parallel()
	for _, harm := range []string{
		"/add .*-blocklist /d",
		"/del .*-blocklist6 /d",
		"/add .*-blocklist /d;/del .*-blocklist /d",
		"s/add sikkerguard-blocklist 203.0.113.9/add sikkerguard-blocklist 9.9.9.9/",
		"s/del sikkerguard-blocklist 203.0.113.8/del sikkerguard-blocklist 203.0.118.66/", // not sampled
	} {
		h, other := nettest.NewHost(t), nettest.NewHost(t)
		r := record(t, "legacy", `if [ "$*" = restore ] && grep -q '^del' $in && [ ! -e $0.once ]; then
	: > $0.once; sed '`+harm+`' $in > $in.part; /usr/sbin/ipset restore < $in.part; exit
fi`)
		f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
		old := desired(list("203.0.113.8/32", "203.0.113.1/32", "2001:db8:f::1/128", "2001:db8:f::2/128"), list())
		next := desired(list("203.0.113.9/32", "203.0.113.1/32", "2001:db8:f::2/128", "2001:db8:f::3/128"), list())
		for i := range 100 { // more than the samples
			more := list(fmt.Sprintf("203.0.118.%d/32", 2*i))
			old.Block, next.Block = old.Block.Union(more), next.Block.Union(more)
		}
		mustApply(t, h, f, old)
		r.take()
		mustApply(t, h, f, next)
		if runs, _ := r.take(); len(runs) < 3 {
			t.Errorf("%s: %q", harm, runs)
		}
		if got, want := elementsIn(t, h), filled(t, f, other, next); got != want {
			t.Errorf("%s (-want +got):\n%s", harm, cmp.Diff(want, got))
		}
	}
}

// TestKilledHalfway kills an agent while ipset changes elements, after each line. No source of both
// lists gets through and no source of neither is dropped, and the next agent takes over.
func TestKilledHalfway(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for n := 3; n < 14; n += 5 {
		h, other := nettest.NewHost(t), nettest.NewHost(t)
		r := record(t, "legacy", strings.Replace(halfway(n), "exit 1", "kill -9 $PPID; exit 1", 1))
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestKilled$")
		cmd.Env, cmd.Dir = append(os.Environ(), killEnv+"="+killHalfway), r.dir
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := h.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("after %d lines: not killed: %v\n%s", n, err, out.String())
		}
		h.Check(fmt.Sprintf("killed after %d lines", n),
			nettest.Addrs("203.0.113.1", "203.0.113.9", "203.0.113.70", "203.0.114.7", "198.51.100.1", "2001:db8:f::1"),
			nettest.Addrs("192.0.2.50", "203.0.116.1", "2001:db8:f::7"))
		f := startKind(t, h, "legacy")
		rs := fourChanges()[1]
		mustApply(t, h, f, rs)
		if got, want := elementsIn(t, h), filled(t, f, other, rs); got != want {
			t.Errorf("after %d lines, the next agent (-want +got):\n%s", n, cmp.Diff(want, got))
		}
	}
}
