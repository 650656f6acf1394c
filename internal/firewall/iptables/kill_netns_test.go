package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// killEnv makes the test process an agent that is killed. Its programs are in its working
// directory.
const killEnv = "SIKKERGUARD_TEST_KILL_STEP"

// Values of killEnv: the agent does everything, or it is killed while it changes elements.
const killAnywhere, killHalfway = "1", "halfway"

// killAllEnv makes TestKill try every step.
const killAllEnv = "SIKKERGUARD_TEST_KILL_ALL"

// TestKilled is the agent that TestKill kills. By itself it does nothing.
func TestKilled(t *testing.T) {
	step := os.Getenv(killEnv)
	if step == "" {
		t.Skip("not started to be killed")
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	f, err := open(Options{Legacy: strings.HasSuffix(dir, "legacy")}, []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if step == killHalfway {
		for _, rs := range fourChanges() {
			if _, err := f.Apply(t.Context(), rs); err != nil {
				t.Fatal(err)
			}
		}
		t.Fatal("not killed")
	}
	rs := desired(list("203.0.113.9/32", "2001:db8:f::1/128"), list("10.0.0.0/8", "192.0.2.7/32"))
	for i, rate := range []uint32{10_000, 7_000, 7_000} { // other rules, and other elements
		rs.LogRate = rate
		if i == 2 {
			rs.Block = rs.Block.Union(list("203.0.113.10/32"))
		}
		if _, err := f.Apply(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		rs.Allow = list("10.0.0.0/8") // a whitelist that loses an entry
	}
	if err := errors.Join(f.Remove(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// suicide makes a directory with the programs of one kind. They count their changes and kill the
// agent after change n.
func suicide(t *testing.T, kind string, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), kind)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	changing := []string{"ipset"}
	for _, p := range []string{"iptables-", "ip6tables-"} {
		link(t, p+kind, dir)
		link(t, p+kind+"-save", dir)
		changing = append(changing, p+kind+"-restore")
	}
	for _, name := range changing {
		program(t, dir, name, fmt.Sprintf(`
case "$0 $*" in *ipset\ list*|*ipset\ save*|*ipset\ -) exec /usr/sbin/%[1]s "$@" ;; esac
/usr/sbin/%[1]s "$@"
code=$?
echo "%[1]s $*" >> %[2]s/changes
[ "$(wc -l < %[2]s/changes)" -eq %[3]d ] && kill -9 $PPID
exit $code`, name, dir, n))
	}
	return dir
}

// TestKill kills an agent after single changes of the host: while it opens, applies, applies
// another list with other rules, and removes everything. Cleanup, or the next agent, leaves nothing
// behind.
func TestKill(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			for _, p := range []string{"iptables-legacy", "ip6tables-legacy"} {
				h.Run(p, "--table", "raw", "--list-rules") // the tables stay once a program has read them
			}
			before, step := firewallOf(h), 1
			for i, n := 0, 1; ; i, n = i+1, n+step {
				switch { // each takes a second, half a minute with -short: only Open with nft goes step by step
				case os.Getenv(killAllEnv) != "":
				case n > 10, kind == "legacy", testing.Short():
					step = 11
				}
				dir := suicide(t, kind, n)
				cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestKilled$")
				cmd.Env, cmd.Dir = append(os.Environ(), killEnv+"="+killAnywhere), dir
				var out strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &out
				if err := h.Start(cmd); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil {
					if n < 20 {
						t.Errorf("only %d changes", n)
					}
					break
				} else if cmd.ProcessState.ExitCode() != -1 {
					t.Fatalf("killed after change %d: %v\n%s", n, err, out.String())
				}
				after := fmt.Sprintf("killed after change %d", n)
				if i%2 == 0 {
					h.Do(func() {
						if err := patient(func() error { _, err := Cleanup(); return err }); err != nil {
							t.Errorf("%s: cleanup: %v", after, err)
						}
					})
				} else {
					succeed(t, h, kind, after)
				}
				if diff := cmp.Diff(before, firewallOf(h)); diff != "" {
					changes, _ := os.ReadFile(filepath.Join(dir, "changes"))
					t.Fatalf("%s: the host is not what it was (-want +got):\n%s\n%s", after, diff, changes)
				}
			}
		})
	}
}

// patient calls remove. With -short, on a processor that is emulated, it does so again if the
// fifteen seconds of a removal are not enough.
func patient(remove func() error) (err error) {
	for range 10 {
		if err = remove(); !testing.Short() || !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return err
}

// succeed runs the next agent from its start to its end.
func succeed(t *testing.T, h *nettest.Host, kind, after string) {
	t.Helper()
	f := startKind(t, h, kind)
	h.Do(func() {
		if _, err := f.Apply(t.Context(), bothFamilies()); err != nil {
			t.Errorf("%s: apply: %v", after, err)
		}
	})
	h.Check(after, nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.8"))
	h.Do(func() {
		if err := errors.Join(patient(f.Remove), f.Close()); err != nil {
			t.Errorf("%s: remove: %v", after, err)
		}
	})
}

// firewallOf returns the firewall of the host without counters, their keys and times.
func firewallOf(h *nettest.Host) string {
	var b strings.Builder
	for _, c := range [][]string{
		{"iptables-legacy-save"}, {"ip6tables-legacy-save"}, {"nft", "list", "ruleset"}, {"ipset", "save"},
	} {
		fmt.Fprintf(&b, "$ %s\n%s", strings.Join(c, " "), h.Run(c[0], c[1:]...))
	}
	text := regexp.MustCompile(`(?m)^# .*\n`).ReplaceAllString(b.String(), "")
	text = regexp.MustCompile(`(?m)^add sikkerguard-(hits|replies|others)6? .*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(` initval \S+`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`\[\d+:\d+\]`).ReplaceAllString(text, "[-]")
	return regexp.MustCompile(`counter packets \d+ bytes \d+`).ReplaceAllString(text, "counter")
}
