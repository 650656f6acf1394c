package iptables

import (
	"errors"
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

// saved is a firewall that was saved without our rules.
const saved = `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -s 198.51.100.66/32 -j DROP
COMMIT
`

// destroy is a shell function that destroys the named sets, or all sets. The kernel frees a rule of
// iptables-nft a moment after it is deleted, and until then the rule uses its sets.
const destroy = `destroy() { for i in $(seq 100); do ipset destroy "$@" && return; sleep 0.1; done; return 1; }; `

// TestFirewallReplaced removes or replaces the whole firewall, in the ways of other programs. Watch
// reports it, the next Apply restores the rules, no reported count decreases, and the agent leaves
// nothing behind.
func TestFirewallReplaced(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			for _, p := range []string{"iptables-legacy", "ip6tables-legacy"} {
				h.Run(p, "--table", "raw", "--list-rules")
			}
			before := firewallOf(h)
			v4, v6 := "iptables-"+kind, "ip6tables-"+kind
			flush := v4 + " -t raw -F; " + v4 + " -t raw -X; " + v6 + " -t raw -F; " + v6 + " -t raw -X; destroy"
			for _, harm := range []string{
				flush,
				v4 + " -t raw -F; " + v4 + " -t raw -X",
				"nft flush ruleset; " + flush,
				v4 + "-restore <<E\n" + saved + "E\n",
				v4 + "-restore <<E\n" + saved + "E\ndestroy sikkerguard-blocklist",
				v4 + " -t raw -Z; " + v4 + " -t raw -D PREROUTING 1",
			} {
				f := startKind(t, h, kind)
				apply := func() {
					h.Do(func() {
						if _, err := f.Apply(t.Context(), bothFamilies()); err != nil {
							t.Errorf("%s: %v", harm, err)
						}
					})
				}
				apply()
				h.Check("before "+harm, nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil)
				if n := count(t, h, f); n.Packets() != 2 {
					t.Errorf("%s: counted %+v", harm, n)
				}
				h.Run("sh", "-c", destroy+harm)
				h.Do(func() {
					if _, err := f.Verify(); !errors.Is(err, ruleset.ErrMismatch) {
						t.Errorf("%s: verify: %v", harm, err)
					}
				})
				if n := count(t, h, f); n.Packets() != 2 {
					t.Errorf("%s: counted %+v afterwards", harm, n)
				}
				apply()
				h.Check("restored after "+harm,
					nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.8"))
				if n := count(t, h, f); n.Packets4 != 2 || n.Packets6 != 2 {
					t.Errorf("%s: counted %+v in the end", harm, n)
				}
				h.Do(func() {
					if err := errors.Join(f.Remove(), f.Close()); err != nil {
						t.Errorf("%s: remove: %v", harm, err)
					}
				})
				if strings.Contains(harm, "-restore") { // the rule of that firewall stays, and so does its table
					h.Run(v4, "-t", "raw", "-D", "PREROUTING", "1")
					if kind == "nft" {
						h.Run("nft", "delete", "table", "ip", "raw")
					}
				}
				if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
					t.Errorf("%s: removed (-want +got):\n%s", harm, diff)
				}
			}
		})
	}
}

// TestForeignPolicyStays has another program set a policy in the table raw that the agent made. The
// kernel would delete such a table, because it holds no rule. It stays when the agent stops.
func TestForeignPolicyStays(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "nft")
	mustApply(t, h, f, bothFamilies())
	h.Run("iptables-nft", "-t", "raw", "-P", "OUTPUT", "DROP")
	h.Do(func() {
		if err := errors.Join(f.Remove(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	left := h.Run("nft", "list", "ruleset")
	if !strings.Contains(left, "policy drop") || strings.Contains(left, chain) || strings.Contains(left, "table ip6") {
		t.Errorf("after the stop:\n%s", left)
	}
}

// TestProgramsVanish removes programs while the agent runs. Apply fails and changes nothing, and
// the active ruleset stays. Remove returns an error that names the rest, and cleanup removes it
// when the programs are back.
func TestProgramsVanish(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	for _, p := range []string{"iptables-legacy", "ip6tables-legacy"} {
		h.Run(p, "--table", "raw", "--list-rules")
	}
	before := firewallOf(h)
	dirs := programs(t, slices.Concat(legacy4, legacy6)...)
	away := func(names ...string) (back func()) {
		for _, name := range names {
			if err := os.Rename(filepath.Join(dirs[0], name), filepath.Join(dirs[0], name+".away")); err != nil {
				t.Fatal(err)
			}
		}
		return func() {
			for _, name := range names {
				if err := os.Rename(filepath.Join(dirs[0], name+".away"), filepath.Join(dirs[0], name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	f := start(t, h, dirs)
	apply := func(ss ...string) (err error) {
		h.Do(func() { _, err = f.Apply(t.Context(), desired(list(ss...), list())) })
		return err
	}
	if err := apply("203.0.113.9/32", "2001:db8:f::1/128"); err != nil {
		t.Fatal(err)
	}
	during := firewallOf(h)
	for _, names := range [][]string{
		{"ipset"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"}, legacy6,
	} {
		back := away(names...)
		if err := apply("203.0.113.10/32", "2001:db8:f::2/128"); err == nil || errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("without %q: got %v", names, err)
		}
		h.Check("while it cannot be changed",
			nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.10", "2001:db8:f::2"))
		back()
		if err := apply("203.0.113.9/32", "2001:db8:f::1/128"); err != nil {
			t.Errorf("with %q again: %v", names, err)
		}
		if diff := cmp.Diff(during, firewallOf(h)); diff != "" {
			t.Errorf("without %q, and with it again (-want +got):\n%s", names, diff)
		}
	}
	left := func(want bool, is error) {
		t.Helper()
		h.Do(func() {
			if found, err := left(t.Context(), dirs); found != want || !errors.Is(err, is) {
				t.Errorf("left: got %v, %v, want %v, %v", found, err, want, is)
			}
		})
	}
	back := away("ipset")
	left(true, ErrMissing)
	back()
	left(true, ErrRunning)
	back = away("ip6tables-legacy", "ip6tables-legacy-save", "ip6tables-legacy-restore")
	h.Do(func() {
		if err := f.Remove(); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "ip6tables") {
			t.Errorf("remove without ip6tables: %v", err)
		}
	})
	back()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	h.Do(func() {
		if removed, err := Cleanup(); len(removed) == 0 || err != nil {
			t.Errorf("cleanup: got %q, %v", removed, err)
		}
	})
	if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
		t.Errorf("cleaned up (-want +got):\n%s", diff)
	}
	left(false, nil)
	away("ipset")
	left(false, nil)
}

// TestLockHeld has another program hold the lock of iptables. A list that needs no other rules is
// applied. Other changes fail, change nothing, and succeed once the lock is free.
func TestLockHeld(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	dirs := programs(t, legacy4[:3]...)
	lock := filepath.Join(dirs[0], "lock")
	// The lock is the test's own, because all programs of the host share the host's.
	program(t, dirs[0], legacy4[3], "export XTABLES_LOCKFILE="+lock+"\nexec /usr/sbin/"+legacy4[3]+` "$@"`)
	f := start(t, h, dirs)
	apply := func(rate uint32, ss ...string) (err error) {
		rs := desired(list(ss...), list())
		rs.LogRate = rate
		h.Do(func() { _, err = f.Apply(t.Context(), rs) })
		return err
	}
	if err := apply(10_000, "203.0.113.9/32"); err != nil {
		t.Fatal(err)
	}
	holder := exec.CommandContext(t.Context(), "flock", lock, "sh", "-c", "echo held; read -r _")
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := apply(10_000, "203.0.113.10/32"); err != nil {
		t.Errorf("another list: %v", err)
	}
	var p *ProgramError
	err = apply(5_000, "203.0.113.11/32")
	if !errors.As(err, &p) || p.Code != 4 || errors.Is(err, ruleset.ErrMismatch) {
		t.Errorf("other rules: got %v", err)
	}
	h.Check("held", nettest.Addrs("203.0.113.10"), nettest.Addrs("203.0.113.9", "203.0.113.11"))
	if n := count(t, h, f); n.Packets() != 1 {
		t.Errorf("counted %+v", n)
	}
	h.Do(func() {
		if _, err := open(Options{Legacy: true}, dirs); !errors.Is(err, ErrRunning) {
			t.Errorf("a second agent: %v", err)
		}
		if err := f.Remove(); err == nil {
			t.Error("remove: no error")
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := open(Options{Legacy: true}, dirs); err == nil || errors.Is(err, ErrIncomplete) {
			t.Errorf("open: got %v", err)
		}
	})
	if err := errors.Join(in.Close(), holder.Wait()); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Error(err)
	}
	h.Do(func() {
		if removed, err := Cleanup(); len(removed) != 2 || err != nil {
			t.Errorf("cleanup: got %q, %v", removed, err)
		}
	})
}
