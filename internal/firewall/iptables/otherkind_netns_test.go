package iptables

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// bothKinds returns the programs of both kinds. The ones without a kind in their name are of
// nf_tables.
func bothKinds(t *testing.T) []string {
	t.Helper()
	dirs := programs(t, "ipset")
	for _, p := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			link(t, p+"-legacy"+suffix, dirs[0])
			if err := os.Symlink("/usr/sbin/"+p+"-nft"+suffix, filepath.Join(dirs[0], p+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dirs
}

// TestRemovesRulesOfTheOtherKind starts an agent after a dead one that used the other kind of
// iptables, as after update-alternatives. Its first list removes the rules of the other kind,
// without a gap, and the table that was made for them.
func TestRemovesRulesOfTheOtherKind(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		t.Run(map[bool]string{true: "legacy, then nft", false: "nft, then legacy"}[first], func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			dirs := bothKinds(t)
			h.Run("iptables-legacy", "-t", "raw", "-S")
			h.Run("ip6tables-legacy", "-t", "raw", "-S")
			before := firewallOf(h)
			sources := nettest.Addrs("203.0.113.9", "2001:db8:f::1")
			var last *Firewall
			for _, legacy := range []bool{first, !first} {
				f := startIn(t, h, Options{Legacy: legacy}, dirs)
				apply := func() { mustApply(t, h, f, desired(hosts(sources), list())) }
				if last == nil {
					apply()
				} else {
					h.Under(sources, nil, apply)
				}
				last = f
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			rules := []string{
				h.Run("iptables-nft-save") + h.Run("ip6tables-nft-save"),
				h.Run("iptables-legacy-save") + h.Run("ip6tables-legacy-save"),
			}
			if first {
				slices.Reverse(rules)
			}
			if strings.Contains(rules[0], chain) || strings.Count(rules[1], jump) != 2 {
				t.Errorf("the first one has:\n%s\nthe second one has:\n%s", rules[0], rules[1])
			}
			if tables := h.Run("nft", "list", "tables"); !first && tables != "" {
				t.Errorf("left of nf_tables:\n%s", tables)
			}
			was := count(t, h, last)
			h.Check("the second one", sources, nettest.Addrs("203.0.113.8"))
			if n := count(t, h, last); n.Packets4 != was.Packets4+1 || n.Packets6 != was.Packets6+1 {
				t.Errorf("counted %+v, and before two packets more %+v", n, was)
			}
			h.Do(func() {
				if err := last.Remove(); err != nil {
					t.Error(err)
				}
			})
			if after := firewallOf(h); after != before {
				t.Errorf("removed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// TestOtherKindThatStaysIsAGap keeps the rules of the other kind from being removed. Apply
// succeeds, there is a gap until they are removed, and each list tries again.
func TestOtherKindThatStaysIsAGap(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	dirs := bothKinds(t)
	rs := desired(list("203.0.113.9/32"), list())
	f := startIn(t, h, Options{Legacy: true}, dirs)
	mustApply(t, h, f, rs)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	h.Run("iptables-legacy", "-t", "raw", "-A", "OUTPUT", "-j", chain)
	f = startIn(t, h, Options{}, dirs)
	gaps := len(f.Info().Gaps)
	mustApply(t, h, f, rs)
	if got := f.Info().Gaps; len(got) != gaps+1 || !strings.Contains(got[gaps], "with another kind of iptables") {
		t.Errorf("gaps: %q", got)
	}
	h.Check("with the gap", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.113.8"))
	h.Run("iptables-legacy", "-t", "raw", "-D", "OUTPUT", "-j", chain)
	mustApply(t, h, f, rs)
	if got := f.Info().Gaps; len(got) != gaps {
		t.Errorf("gaps: %q", got)
	}
	h.Do(func() {
		if err := errors.Join(f.Remove(), f.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestOtherKindStaysAfterAFailedApply makes the first list of an agent fail after a dead one that
// used the other kind of iptables. The rules of the dead agent stay active and can still be
// removed.
func TestOtherKindStaysAfterAFailedApply(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		t.Run(map[bool]string{true: "legacy, then nft", false: "nft, then legacy"}[first], func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			dirs := bothKinds(t)
			h.Run("iptables-legacy", "-t", "raw", "-S")
			h.Run("ip6tables-legacy", "-t", "raw", "-S")
			before := firewallOf(h)
			apply := func(f *Firewall, ss ...string) (err error) {
				h.Do(func() { _, err = f.Apply(t.Context(), desired(list(ss...), list())) })
				return err
			}
			f := startIn(t, h, Options{Legacy: first}, dirs)
			if err := errors.Join(apply(f, "203.0.113.9/32", "2001:db8:f::1/128"), f.Close()); err != nil {
				t.Fatal(err)
			}
			during := firewallOf(h)
			f = startIn(t, h, Options{Legacy: !first}, dirs)
			f.families[1].restore = "/bin/false"
			if err := apply(f, "203.0.113.10/32"); err == nil || errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(during, firewallOf(h)); diff != "" {
				t.Errorf("after the failure (-want +got):\n%s", diff)
			}
			h.Check("after the failure", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.10"))
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			h.Do(func() {
				if _, err := Cleanup(); err != nil {
					t.Error(err)
				}
			})
			if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
				t.Errorf("cleaned up (-want +got):\n%s", diff)
			}
		})
	}
}
