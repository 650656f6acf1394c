package iptables

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// foreignRules adds rules that iptables-nft cannot translate. With one of them in table raw, it
// prints nothing of the table.
func foreignRules(h *nettest.Host) {
	for _, f := range []string{"ip", "ip6"} {
		h.Run("nft", "add table "+f+" raw; "+
			"add chain "+f+" raw PREROUTING { type filter hook prerouting priority raw; }")
	}
	h.Run("nft", "add rule ip raw PREROUTING udp dport 53 notrack")
	h.Run("nft", "add rule ip6 raw PREROUTING udp dport 53 log prefix \"dns \"")
}

// TestUnprintable adds rules to table raw that iptables cannot print. Lists, rules and whitelists
// are applied, verified and counted, and the removal leaves the other rules.
func TestUnprintable(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "nft")
	rs := bothFamilies()
	sources := nettest.Addrs("203.0.113.9", "2001:db8:f::1")
	sent := uint64(0)
	do := func(f func() error) (err error) {
		h.Do(func() { err = f() })
		return err
	}
	verify := func() error { _, err := f.Verify(); return err }
	enforced := func(when string) {
		t.Helper()
		if err := do(func() error { _, err := f.Apply(t.Context(), rs); return err }); err != nil {
			t.Errorf("%s: apply: %v", when, err)
		}
		h.Check(when, sources, nettest.Addrs("203.0.113.8"))
		sent++
		for _, f := range []string{"ip", "ip6"} {
			rules := h.Run("nft", "list", "chain", f, "raw", "PREROUTING")
			first, _, _ := strings.Cut(rules[strings.Index(rules, "policy"):], "jump")
			if strings.Count(rules, "jump "+chain) != 1 || strings.Count(first, "\n") != 1 {
				t.Errorf("%s: the jump is not there once, and first:\n%s", when, rules)
			}
		}
		if err := do(f.Present); err != nil {
			t.Errorf("%s: present: %v", when, err)
		}
		if err := do(verify); err != nil {
			t.Errorf("%s: verify: %v", when, err)
		}
		if n := count(t, h, f); n.Packets4 != sent || n.Packets6 != sent {
			t.Errorf("%s: counted %+v, want %d packets of each family", when, n, sent)
		}
	}
	enforced("printable")
	foreignRules(h)
	enforced("unprintable")
	rs.Allow = list("203.0.113.7/32")
	enforced("another whitelist")
	rs.LogRate = 7_000
	enforced("other rules")
	for _, harm := range [][]string{
		{"iptables-nft", "-t", "raw", "-D", "PREROUTING", "-j", chain},
		{"iptables-nft", "-t", "raw", "-A", "PREROUTING", "-j", chain},
		{"nft", "insert rule ip6 raw PREROUTING udp dport 54 notrack"},
		{"ip6tables-nft", "-t", "raw", "-D", chain, "2"},
		{"nft", "insert rule ip raw " + chain + " udp dport 54 notrack"},
	} {
		h.Run(harm[0], harm[1:]...)
		if err := do(verify); !errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("%q: verify: %v", harm, err)
		}
		gone := strings.Contains(strings.Join(harm, " "), "-D PREROUTING")
		if err := do(f.Present); errors.Is(err, ruleset.ErrMismatch) != gone {
			t.Errorf("%q: present: %v", harm, err)
		}
		enforced(harm[0])
	}
	h.Run("iptables-nft", "-t", "raw", "-A", "PREROUTING", "-j", chain) // a second jump, which Disarm also removes
	// With such a rule in our chain, iptables cannot print the chain either.
	h.Run("nft", "insert rule ip6 raw "+chain+" udp dport 54 notrack")
	h.Do(func() {
		if n, err := f.Counters(); !errors.Is(err, ErrUnprintable) {
			t.Errorf("counters: %+v, %v", n, err)
		}
		if err := f.Present(); err != nil {
			t.Errorf("present: %v", err)
		}
		if err := f.Disarm(); err != nil {
			t.Errorf("disarm: %v", err)
		}
		if err := f.Present(); !errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("present, disarmed: %v", err)
		}
	})
	h.Check("disarmed", nil, sources)
	enforced("armed again")
	h.Do(func() {
		if err := errors.Join(f.Remove(), f.Close()); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	h.Check("removed", nil, sources)
	after := firewallOf(h)
	if strings.Contains(strings.ToLower(after), "sikkerguard") || strings.Count(after, "udp dport") != 3 {
		t.Errorf("removed:\n%s", after)
	}
}

// TestUnprintableBefore opens on a table raw that iptables cannot print. The agent enforces. After
// it was killed, cleanup leaves the host as it was.
func TestUnprintableBefore(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	foreignRules(h)
	before := firewallOf(h)
	f := startKind(t, h, "nft")
	if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
		t.Errorf("opened (-want +got):\n%s", diff)
	}
	mustApply(t, h, f, bothFamilies())
	h.Check("applied", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.8"))
	h.Run("nft", "add rule ip raw "+chain+" udp dport 53 notrack")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	h.Do(func() {
		if removed, err := Cleanup(); len(removed) != 3 || err != nil {
			t.Errorf("cleanup: got %q, %v", removed, err)
		}
	})
	if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
		t.Errorf("cleaned up (-want +got):\n%s", diff)
	}
}

// TestUnprintableChain has an iptables that cannot print our chain either. Apply fails with that
// error, the jump stays, and the removal succeeds.
func TestUnprintableChain(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	foreignRules(h)
	before := firewallOf(h)
	f := startKind(t, h, "nft")
	apply := func(ss ...string) (err error) {
		h.Do(func() { _, err = f.Apply(t.Context(), desired(list(ss...), list())) })
		return err
	}
	if err := apply("203.0.113.9/32", "2001:db8:f::1/128"); err != nil {
		t.Fatal(err)
	}
	for i := range f.families {
		f.families[i].list = "/bin/false"
	}
	for range 3 {
		err := apply("203.0.113.10/32")
		if !errors.Is(err, ErrUnprintable) || !strings.Contains(err.Error(), "SIKKER_BACKEND=nftables") {
			t.Errorf("apply: %v", err)
		}
	}
	if rules := h.Run("nft", "list", "table", "ip", "raw"); strings.Count(rules, "jump "+chain) != 1 {
		t.Errorf("the jump is not there once:\n%s", rules)
	}
	h.Check("unchanged", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.10"))
	h.Do(func() {
		if err := f.Present(); err != nil {
			t.Errorf("present: %v", err)
		}
		if n, err := f.Counters(); !errors.Is(err, ErrUnprintable) {
			t.Errorf("counters: %+v, %v", n, err)
		}
		if err := errors.Join(f.Remove(), f.Close()); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}
