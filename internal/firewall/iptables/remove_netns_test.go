package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestRemoveWithAForeignReference has another program's rule refer to our chain, so that the chain
// cannot be deleted. The chain is then empty. Once the rule is gone, cleanup finds and removes the
// rest.
func TestRemoveWithAForeignReference(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			mustApply(t, h, f, bothFamilies())
			h.Run("iptables-"+kind, "-t", "raw", "-A", "OUTPUT", "-j", chain)
			h.Do(func() {
				if err := f.Remove(); err == nil || !strings.Contains(err.Error(), "another rule may refer to it") {
					t.Errorf("remove: got %v", err)
				}
			})
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			h.Check("removed as far as can be", nil, nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
			cleanup := func() (removed []string, err error) {
				h.Do(func() { removed, err = Cleanup() })
				return removed, err
			}
			if _, err := cleanup(); err == nil {
				t.Error("cleanup while the rule is there: no error")
			}
			h.Run("iptables-"+kind, "-t", "raw", "-D", "OUTPUT", "-j", chain)
			if removed, err := cleanup(); err != nil || len(removed) == 0 || !strings.Contains(removed[0], chain) {
				t.Errorf("cleanup: got %q, %v", removed, err)
			}
			left := h.Run("iptables-legacy-save") + h.Run("iptables-nft-save") + h.Run("ipset", "list", "-n")
			if strings.Contains(strings.ToLower(left), "sikkerguard") {
				t.Errorf("left behind:\n%s", left)
			}
			if tables := h.Run("nft", "list", "tables"); kind == "nft" && tables != "" {
				t.Errorf("left behind:\n%s", tables)
			}
		})
	}
}

// startKind opens the backend with the programs of one kind of iptables.
func startKind(t *testing.T, h *nettest.Host, kind string) *Firewall {
	t.Helper()
	dirs := programs(t, "ipset")
	for _, p := range []string{"iptables-", "ip6tables-"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			link(t, p+kind+suffix, dirs[0])
		}
	}
	return startIn(t, h, Options{Legacy: kind == "legacy"}, dirs)
}

// TestRemoveRetries makes the first change of the rules fail for a passing reason. Everything is
// removed.
func TestRemoveRetries(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	mustApply(t, h, f, desired(list("203.0.113.9/32"), list()))
	dir := t.TempDir()
	f.families[0].restore = program(t, dir, "restore", `
[ -e `+dir+`/failed ] && exec /usr/sbin/iptables-legacy-restore "$@"
> `+dir+`/failed
exit 4`)
	var found bool
	var err error
	h.Do(func() { found, err = f.removeChains(t.Context(), f.families[0]) })
	if !found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
	if left := h.Run("iptables-legacy-save", "-t", "raw"); strings.Contains(left, chain) {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestRemoveInTime lets the time run out while sets are removed. The rules of both families are
// removed by then, and cleanup finds the rest.
func TestRemoveInTime(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	mustApply(t, h, f, bothFamilies())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var held func()
	f.ipset, held, _ = hold(t, f.ipset)
	errC := make(chan error, 1)
	go h.Do(func() {
		_, err := f.remove(ctx)
		errC <- err
	})
	held()
	cancel()
	if err := <-errC; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	h.Check("out of time", nil, nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	h.Do(func() {
		if removed, err := Cleanup(); len(removed) != 1 || err != nil {
			t.Errorf("cleanup: got %q, %v", removed, err)
		}
	})
}

// TestForeignSet has another program make sets with names of ours. Nothing changes, the error
// contains the remedy, and neither a stop nor cleanup destroys them.
func TestForeignSet(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	check := func(when string, f func() error) {
		t.Helper()
		before := firewallOf(h)
		var err error
		h.Do(func() { err = f() })
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "ipset rename sikkerguard-") {
			t.Errorf("%s: got %v", when, err)
		}
		if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
			t.Errorf("%s: something was changed (-want +got):\n%s", when, diff)
		}
	}
	h.Run("iptables-legacy", "-t", "raw", "-S")
	h.Run("ip6tables-legacy", "-t", "raw", "-S")
	for _, create := range [][]string{
		{"sikkerguard-probe", "hash:net", "family", "inet6"},
		{"sikkerguard-made-raw6", "list:set"},
	} {
		h.Run("ipset", append([]string{"create"}, create...)...)
		check(fmt.Sprintf("open beside %q", create), func() error {
			_, err := open(Options{Legacy: true}, strings.Split(path, ":"))
			return err
		})
		h.Do(func() {
			if removed, err := Cleanup(); len(removed) > 0 || err != nil {
				t.Errorf("cleanup beside %q: got %q, %v", create, removed, err)
			}
		})
		h.Run("ipset", "destroy", create[0])
	}
}

// TestBusySetIsRenamed has another program list its set, which has a name of ours, while the agent
// renames it. The agent renames it a moment later, and gives the name back when it stops.
func TestBusySetIsRenamed(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	r := record(t, "legacy", `case "$*" in rename*)
	echo >> $0.renames
	[ $(($(wc -l < $0.renames) % 3)) -eq 0 ] || { echo "Set cannot be renamed: it is in use" >&2; exit 1; } ;;
esac`)
	f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
	h.Run("ipset", "create", "sikkerguard-blocklist", "hash:ip")
	mustApply(t, h, f, bothFamilies())
	h.Check("renamed", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.113.8"))
	h.Do(func() {
		if err := f.Remove(); err != nil {
			t.Error(err)
		}
	})
	if sets := h.Run("ipset", "list", "-n"); sets != "sikkerguard-blocklist\n" {
		t.Errorf("after the stop:\n%s", sets)
	}
}

// TestForeignSetUnderALastingName has another program make sets with the lasting names of ours. The
// agent opens, blocks and repairs. It renames the sets, reports a gap, and gives them their names
// back when it stops. If a rule of another program looks up a set, the set cannot be renamed, and
// the error names it.
func TestForeignSetUnderALastingName(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	apply := func(f *Firewall) error {
		_, err := f.Apply(t.Context(), bothFamilies())
		return err
	}
	do := func(when string, step func() error) {
		t.Helper()
		h.Do(func() {
			if err := step(); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		})
	}
	blocked := nettest.Addrs("203.0.113.9", "2001:db8:f::1")
	h.Run("ipset", "create", "sikkerguard-blocklist", "hash:ip")
	h.Run("ipset", "add", "sikkerguard-blocklist", "9.9.9.9")
	h.Run("ipset", "create", "sikkerguard-whitelist6", "hash:net")
	before := h.Run("ipset", "save")
	f := start(t, h, strings.Split(path, ":"))
	do("the first list", func() error { return apply(f) })
	h.Check("the first list", blocked, nettest.Addrs("9.9.9.9"))
	gaps := strings.Join(f.Info().Gaps, "\n")
	if !strings.Contains(gaps, "sikkerguard-blocklist to sikkerguard-blocklist-other") {
		t.Errorf("no gap names the renamed set: %s", gaps)
	}
	do("remove", f.Remove)
	if after := h.Run("ipset", "save"); after != before {
		t.Errorf("after remove there are the sets\n%s, not\n%s", after, before)
	}
	h.Run("ipset", "destroy")

	do("the next list", func() error { return apply(f) })
	h.Run("iptables-legacy", "-t", "raw", "-F")
	h.Run("ipset", "destroy", "sikkerguard-whitelist")
	h.Run("ipset", "create", "sikkerguard-whitelist", "hash:ip")
	do("a repair", func() error { return apply(f) })
	h.Check("a repair", blocked, nil)
	do("remove", f.Remove)
	if left := h.Run("ipset", "list", "-n"); left != "sikkerguard-whitelist\n" {
		t.Errorf("after remove there are the sets:\n%s", left)
	}

	h.Run("iptables-legacy", "-A", "INPUT", "-m", "set", "--match-set", "sikkerguard-whitelist", "src", "-j", "ACCEPT")
	unchanged := firewallOf(h)
	h.Do(func() {
		err := apply(f)
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "ipset rename sikkerguard-whitelist") {
			t.Errorf("with a set in use: got %v", err)
		}
	})
	if diff := cmp.Diff(unchanged, firewallOf(h)); diff != "" {
		t.Errorf("with a set in use something was changed (-want +got):\n%s", diff)
	}
}

// TestRenamedSetOfAKilledAgent kills an agent that renamed another program's set. The next agent
// reports the gap and gives the set its name back when it stops. So does cleanup. A set that another
// program uses under such a name keeps it.
func TestRenamedSetOfAKilledAgent(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	h.Run("ipset", "create", "sikkerguard-blocklist", "hash:ip")
	h.Run("ipset", "add", "sikkerguard-blocklist", "9.9.9.9")
	h.Run("ipset", "create", "sikkerguard-whitelist6", "hash:ip", "family", "inet6")
	h.Run("ipset", "create", "sikkerguard-whitelist-other", "hash:ip")
	h.Run("ipset", "create", "sets", "list:set")
	h.Run("ipset", "add", "sets", "sikkerguard-whitelist-other")
	before := h.Run("ipset", "save")
	apply := func() *Firewall {
		f := start(t, h, strings.Split(path, ":"))
		mustApply(t, h, f, bothFamilies())
		return f
	}
	killed := func() {
		if err := apply().Close(); err != nil { // the sets and rules stay, as if it was killed
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(before, h.Run("ipset", "save")); diff != "" {
			t.Errorf("sets after %s (-want +got):\n%s", when, diff)
		}
	}

	killed()
	f := apply()
	gaps := strings.Join(f.Info().Gaps, "\n")
	if !strings.Contains(gaps, "sikkerguard-blocklist to sikkerguard-blocklist-other") {
		t.Errorf("no gap names the set that the killed agent renamed: %s", gaps)
	}
	h.Do(func() {
		if err := errors.Join(f.Remove(), f.Close()); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	check("a stop of the next agent")
	if gaps := strings.Join(f.Info().Gaps, "\n"); strings.Contains(gaps, "renamed") {
		t.Errorf("gaps after the stop: %s", gaps)
	}

	killed()
	h.Do(func() {
		if _, err := Cleanup(); err != nil {
			t.Errorf("cleanup: %v", err)
		}
	})
	check("cleanup")
}

// TestProbeStays keeps the probe of Open from being removed. Open fails, and cleanup finds and
// removes it.
func TestProbeStays(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	before := firewallOf(h)
	dirs := programs(t, "ipset", "iptables-nft", "iptables-nft-save")
	program(t, dirs[0], "iptables-nft-restore", `rules=$(cat)
case "$rules" in *"-X "*) exit 4 ;; esac
echo "$rules" | exec /usr/sbin/iptables-nft-restore "$@"`)
	h.Do(func() {
		var p *ProgramError
		if _, err := open(Options{}, dirs); !errors.As(err, &p) || p.Code != 4 {
			t.Errorf("open: got %v", err)
		}
		if removed, err := Cleanup(); len(removed) == 0 || err != nil {
			t.Errorf("cleanup: got %q, %v", removed, err)
		}
	})
	if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
		t.Errorf("cleaned up (-want +got):\n%s", diff)
	}
}
