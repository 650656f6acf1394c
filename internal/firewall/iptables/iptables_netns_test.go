package iptables

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/lock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// The suite of internal/firewall tests the behaviour of every backend. The tests in this file are
// about iptables alone.

func list(ss ...string) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return blocklist.New(ps)
}

func desired(block, allow blocklist.Blocklist) ruleset.Ruleset {
	return ruleset.Ruleset{Block: block, Allow: allow, LogGroup: 100, LogRate: 10_000}
}

// bothFamilies returns a ruleset that blocks one source of each family.
func bothFamilies() ruleset.Ruleset {
	return desired(list("203.0.113.9/32", "2001:db8:f::1/128"), list())
}

// hosts returns addresses as a list.
func hosts(as []netip.Addr) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, a := range as {
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	return blocklist.New(ps)
}

func start(t *testing.T, h *nettest.Host, dirs []string) *Firewall {
	t.Helper()
	return startIn(t, h, Options{Legacy: true}, dirs)
}

func startIn(t *testing.T, h *nettest.Host, o Options, dirs []string) *Firewall {
	t.Helper()
	var f *Firewall
	var err error
	h.Do(func() { f, err = open(o, dirs) })
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		h.Do(func() {
			if found, _ := Left(); found {
				_ = f.Remove()
			}
		})
		_ = f.Close()
	})
	return f
}

// mustApply applies rs on the host of f, and fails the test if that fails.
func mustApply(t *testing.T, h *nettest.Host, f *Firewall, rs ruleset.Ruleset) {
	t.Helper()
	h.Do(func() {
		if _, err := f.Apply(t.Context(), rs); err != nil {
			t.Errorf("apply: %v", err)
		}
	})
}

// programs returns a directory with links to the named programs.
func programs(t *testing.T, names ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		link(t, name, dir)
	}
	return []string{dir}
}

func link(t *testing.T, name, dir string) {
	t.Helper()
	if err := os.Symlink(filepath.Join("/usr/sbin", name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

var (
	legacy4 = []string{"ipset", "iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore"}
	legacy6 = []string{"ip6tables-legacy", "ip6tables-legacy-save", "ip6tables-legacy-restore"}
)

// TestMissing opens the backend where programs are not installed.
func TestMissing(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	for _, dirs := range [][]string{programs(t), programs(t, "ipset"), programs(t, legacy4[1:]...)} {
		h.Do(func() {
			_, err := open(Options{Legacy: true}, dirs)
			if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install iptables ipset") {
				t.Errorf("got %v, want %v", err, ErrMissing)
			}
		})
	}
	f := start(t, h, programs(t, legacy4...))
	gaps := strings.Join(f.Info().Gaps, "\n")
	if !strings.Contains(gaps, "only IPv4 is enforced, IPv6 sources get through") {
		t.Errorf("gaps without ip6tables: %s", gaps)
	}
	h.Do(func() {
		e, err := f.Apply(t.Context(), bothFamilies())
		if err != nil || e.Entries4 != 1 || e.Entries6 != 0 {
			t.Errorf("apply without ip6tables: %+v, %v", e, err)
		}
	})
	h.Check("without ip6tables", nettest.Addrs("203.0.113.9"), nettest.Addrs("2001:db8:f::1"))
}

// TestLock checks that an agent prevents a second one.
func TestLock(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	h.Do(func() {
		if _, err := Open(Options{Legacy: true}); !errors.Is(err, ErrRunning) {
			t.Errorf("a second agent: got %v, want %v", err, ErrRunning)
		}
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, h, strings.Split(path, ":"))
}

// TestNoLock has another user hold the name of the lock. The agent starts and reports a gap.
func TestNoLock(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	h.BindAsNobody(lockName)
	if f := start(t, h, strings.Split(path, ":")); !slices.Contains(f.Info().Gaps, lock.Gap) {
		t.Errorf("gaps: %q", f.Info().Gaps)
	}
}

// TestFailedStepChangesNothing makes late steps fail. The active ruleset stays as it was.
func TestFailedStepChangesNothing(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	before := h.Run("iptables-legacy-save") + h.Run("ipset", "save")
	apply := func(ss ...string) (err error) {
		h.Do(func() { _, err = f.Apply(t.Context(), desired(list(ss...), list())) })
		return err
	}
	// It is the first list, and ip6tables refuses the rules: IPv4 also gets none.
	good := f.families[1].restore
	f.families[1].restore = "/bin/false"
	var p *ProgramError
	if err := apply("203.0.113.9/32", "2001:db8:f::1/128"); !errors.As(err, &p) || p.Code != 1 {
		t.Errorf("with a restore that fails: got %v", err)
	}
	f.families[1].restore = good
	plain := func(s string) string {
		var lines []string
		for line := range strings.Lines(s) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	if after := h.Run("iptables-legacy-save") + h.Run("ipset", "save"); plain(after) != plain(before) {
		t.Errorf("after the failure:\n%s\nbefore:\n%s", after, before)
	}
	if err := apply("203.0.113.9/32", "2001:db8:f::1/128"); err != nil {
		t.Fatal(err)
	}
	// If a swap fails, the earlier ones are undone.
	h.Run("ipset", "create", "other", "hash:net")
	h.Run("ipset", "create", "another", "hash:ip")
	h.Do(func() {
		steps := [][2]string{{"sikkerguard-blocklist", "other"}, {"sikkerguard-blocklist6", "another"}}
		err := f.swapAll(context.Background(), steps)
		if err == nil || errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("swap with another kind: got %v", err)
		}
		if _, err := f.Verify(); err != nil {
			t.Error(err)
		}
	})
	// Another program has taken every name of a temporary set.
	for _, name := range spares("sikkerguard-blocklist6-next") {
		h.Run("ipset", "create", name, "hash:ip")
	}
	err := apply("203.0.113.10/32")
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "ipset rename sikkerguard-blocklist6-next") {
		t.Errorf("without a name for a temporary set: got %v", err)
	}
	h.Check("after failures", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.10"))
}

// TestTemporaryNameTaken has another program make sets with names of temporary ones after the first
// list. Refreshes succeed and leave those sets as they are.
func TestTemporaryNameTaken(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	apply := func(block, allow []string) {
		t.Helper()
		mustApply(t, h, f, desired(list(block...), list(allow...)))
	}
	apply([]string{"203.0.113.9/32"}, nil)
	for _, create := range [][]string{
		{"sikkerguard-blocklist-next", "hash:net"}, // of our kind; a rule looks it up
		{"sikkerguard-whitelist-both", "hash:net"}, // in a set of sets
		{"sikkerguard-blocklist6-next", "hash:net"},
		{"sikkerguard-whitelist-next", "list:set"},
		{"sikkerguard-whitelist-next2", "hash:ip"},
		{"sikkerguard-whitelist6-both", "bitmap:port", "range", "0-100"},
		{"sikkerguard-probe", "hash:ip"},
		{"sikkerguard-made-raw", "hash:ip"},
	} {
		h.Run("ipset", append([]string{"create"}, create...)...)
	}
	h.Run("iptables-legacy", "-A", "INPUT",
		"-m", "set", "--match-set", "sikkerguard-blocklist-next", "src", "-j", "DROP")
	h.Run("ipset", "add", "sikkerguard-blocklist-next", "192.0.2.200")
	h.Run("ipset", "add", "sikkerguard-whitelist-next", "sikkerguard-whitelist-both")
	theirs := func() string {
		var lines []string
		for line := range strings.Lines(h.Run("ipset", "save")) {
			ours := func(set string) bool { return strings.Contains(line, " "+set+" ") }
			if !slices.ContainsFunc(bothLookedUp(), ours) {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	before := theirs()
	apply([]string{"203.0.113.0/28", "2001:db8:f::1/128"}, []string{"203.0.113.1/32", "203.0.113.2/32"})
	apply([]string{"203.0.113.0/28", "2001:db8:f::1/128"}, []string{"203.0.113.1/32"}) // the whitelist loses an entry
	h.Check("refreshed", nettest.Addrs("203.0.113.9", "203.0.113.2", "2001:db8:f::1"), nettest.Addrs("203.0.113.1"))
	if diff := cmp.Diff(before, theirs()); diff != "" {
		t.Errorf("sets of another program, or of ours that are left (-want +got):\n%s", diff)
	}
	h.Do(func() {
		if err := f.Remove(); err != nil {
			t.Error(err)
		}
	})
	if diff := cmp.Diff(before, h.Run("ipset", "save")); diff != "" {
		t.Errorf("after remove (-want +got):\n%s", diff)
	}
}

// TestWhitelistMoves refreshes lists that overlap with their whitelist. A source that is allowed or
// unlisted before and afterwards is never dropped in between.
func TestWhitelistMoves(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	steps := []ruleset.Ruleset{
		desired(list("46.1.2.3/32"), list("46.1.2.3/32")),
		desired(list("5.6.7.8/32"), list()),
		desired(list("46.0.0.0/8"), list("46.1.0.0/16", "::1/128")),
		desired(list("46.1.2.0/24"), list("46.0.0.0/8")),
	}
	mustApply(t, h, f, steps[0])
	h.Under(nil, nettest.Addrs("46.1.2.3"), func() {
		for i := range 16 {
			mustApply(t, h, f, steps[(i+1)%len(steps)])
		}
	})
}

// TestWhitelistIsLookedUpOnlyIfListed prints the rules of lists that overlap with their whitelist
// and of lists that do not. The changes between them drop no source that the lists let through.
func TestWhitelistIsLookedUpOnlyIfListed(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			const lookup = "--match-set sikkerguard-whitelist src -j RETURN"
			apply := func(want bool, block, allow []string) {
				t.Helper()
				mustApply(t, h, f, desired(list(block...), list(allow...)))
				got := h.Run("iptables-"+kind, "-t", "raw", "-S", chain)
				if strings.Contains(got, lookup) != want {
					t.Errorf("%q without %q: want a lookup: %v\n%s", block, allow, want, got)
				}
			}
			apply(false, []string{"203.0.113.0/24"}, []string{"192.0.2.50/32"})
			h.Under(nettest.Addrs("203.0.113.9"), nettest.Addrs("192.0.2.50"), func() {
				for range 4 {
					apply(true, []string{"203.0.113.0/24", "192.0.2.0/24"}, []string{"192.0.2.50/32"})
					apply(false, []string{"203.0.113.0/24", "192.0.3.0/24"}, []string{"192.0.2.50/32"})
				}
			})
		})
	}
}

// TestWatch removes rules by hand. Watch reports each removal, but neither our own changes nor
// changes of other rules.
func TestWatch(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := start(t, h, strings.Split(path, ":"))
	apply := func() { mustApply(t, h, f, desired(list("203.0.113.9/32"), list())) }
	apply()
	ctx, cancel := context.WithCancel(t.Context())
	lostC, doneC := make(chan error, 16), make(chan error, 1)
	go func() {
		var err error
		h.Do(func() { err = f.Watch(ctx, func(err error) { lostC <- err }) })
		doneC <- err
	}()
	h.Run("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
	h.Run("ipset", "create", "other", "hash:ip")
	for _, change := range [][]string{
		{"iptables-legacy", "-t", "raw", "-F"},
		{"iptables-legacy", "-t", "raw", "-F"},
		{"ipset", "flush", "sikkerguard-blocklist"},
		{"ip6tables-legacy", "-t", "raw", "-D", "PREROUTING", "1"},
	} {
		h.Run(change[0], change[1:]...)
		select {
		case err := <-lostC:
			if !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%q: got %v", change, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%q: not noticed", change)
		}
		apply()
		h.Check("repaired", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.113.8"))
	}
	cancel()
	if err := <-doneC; err != nil {
		t.Errorf("watch: %v", err)
	}
	if len(lostC) > 0 {
		t.Errorf("reported without a reason: %v", <-lostC)
	}
}
