package iptables

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// breaks replaces a program, or adds one, by a program that fails as if its library were missing.
func breaks(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	program(t, dir, name, "exit 127")
}

// TestOpensDespiteABrokenOtherKind breaks an iptables of the kind that is not used. The agent
// opens, enforces and removes everything.
func TestOpensDespiteABrokenOtherKind(t *testing.T) {
	t.Parallel()
	for _, legacy := range []bool{true, false} {
		t.Run(map[bool]string{true: "legacy", false: "nft"}[legacy], func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			h.Run("iptables-legacy", "-t", "raw", "-S")
			h.Run("ip6tables-legacy", "-t", "raw", "-S")
			before := firewallOf(h)
			dirs := bothKinds(t)
			other := map[bool]string{true: "tables", false: "tables-legacy"}[legacy]
			for _, f := range []string{"ip", "ip6"} {
				breaks(t, dirs[0], f+other)
			}
			f := startIn(t, h, Options{Legacy: legacy}, dirs)
			mustApply(t, h, f, bothFamilies())
			h.Check("applied", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.8"))
			if gaps := strings.Join(f.Info().Gaps, "\n"); !strings.Contains(gaps, "exit code 127") {
				t.Errorf("gaps: %s", gaps)
			}
			h.Do(func() {
				if err := errors.Join(f.Remove(), f.Close()); err != nil {
					t.Errorf("remove: %v", err)
				}
			})
			if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRemovesRulesWithBrokenPrograms breaks programs after a list was applied. The programs that
// read and write the rules in use still remove them.
func TestRemovesRulesWithBrokenPrograms(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	h.Run("iptables-legacy", "-t", "raw", "-S")
	h.Run("ip6tables-legacy", "-t", "raw", "-S")
	before := firewallOf(h)
	dirs := bothKinds(t)
	f := startIn(t, h, Options{Legacy: true}, dirs)
	mustApply(t, h, f, bothFamilies())
	for _, name := range []string{"iptables", "ip6tables", "iptables-legacy"} {
		breaks(t, dirs[0], name)
	}
	h.Do(func() {
		if err := errors.Join(f.Remove(), f.Close()); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	h.Check("removed", nil, nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
	if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

// TestBrokenIP6TablesIsAGap breaks each program for IPv6. IPv4 is enforced, and there is a gap.
func TestBrokenIP6TablesIsAGap(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"", "-save", "-restore"} {
		h := nettest.NewHost(t)
		h.Run("ip6tables-legacy", "-t", "raw", "-S")
		dirs := programs(t, slices.Concat(legacy4, legacy6)...)
		breaks(t, dirs[0], "ip6tables-legacy"+suffix)
		f := start(t, h, dirs)
		gaps := strings.Join(f.Info().Gaps, "\n")
		if !strings.Contains(gaps, "only IPv4 is enforced, IPv6 sources get through") ||
			!strings.Contains(gaps, "exit code 127") {
			t.Errorf("gaps with a broken ip6tables%s: %s", suffix, gaps)
		}
		mustApply(t, h, f, bothFamilies())
		h.Check("without ip6tables"+suffix, nettest.Addrs("203.0.113.9"), nettest.Addrs("2001:db8:f::1"))
	}
}
