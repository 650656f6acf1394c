package nft

import (
	"errors"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host is a server behind the table.
type host struct {
	*nettest.Host
	tb    testing.TB
	table *Table
}

func newHost(tb testing.TB, o Options) *host {
	tb.Helper()
	h := &host{Host: nettest.NewHost(tb), tb: tb}
	h.open(o)
	return h
}

func (h *host) open(o Options) {
	h.tb.Helper()
	var err error
	h.Do(func() { h.table, err = Open(o) })
	if err != nil {
		h.tb.Fatalf("open: %v", err)
	}
	table := h.table
	h.tb.Cleanup(func() { _ = table.Close() })
}

func (h *host) apply(block, allow blocklist.Blocklist) {
	h.tb.Helper()
	e, err := h.tryApply(block, allow)
	if err != nil {
		h.tb.Fatalf("apply: %v", err)
	}
	if e.Entries() != block.Len() || e.Sampled == 0 && block.Len() > 0 {
		h.tb.Fatalf("evidence %+v for %d entries", e, block.Len())
	}
}

func (h *host) tryApply(block, allow blocklist.Blocklist) (e ruleset.Evidence, err error) {
	h.tb.Helper()
	h.Do(func() {
		rs := ruleset.Ruleset{Block: block, Allow: allow, LogGroup: 100, LogRate: 10_000}
		e, err = h.table.Apply(h.tb.Context(), rs)
	})
	return e, err
}

// TestGolden compares the table, as nft prints it, with the golden files.
func TestGolden(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		block, allow blocklist.Blocklist
	}{
		{
			"mixed",
			list("185.16.39.79", "45.9.20.0/24", "5.6.0.0/16", "62.0.0.0/7", "2001:db8:f::79",
				"2001:db8:9:1::/64", "2001:db8:a::/48", "2001:dba::/32", "2001:db8:0:b000::/52"),
			list("10.0.0.0/8", "192.0.2.1", "::1", "fc00::/7"), // no entry overlaps the blocklist
		},
		{
			"allowed",
			list("185.16.39.79", "45.9.20.0/24", "2001:db8:9:1::/64"),
			list("10.0.0.0/8", "45.9.20.7", "45.9.20.128/26", "2001:db8:9::/48"),
		},
		{"addresses", list("185.16.39.79", "203.0.113.9"), list()},
		{"nothing", list(), list()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			h.apply(tt.block, tt.allow)
			got := plain(h.Run("nft", "list", "table", "inet", tableName))
			file := "testdata/" + tt.name + ".nft"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !nettest.TakesTable(t, nettest.TableOwner) {
				want = []byte(strings.Replace(string(want), "\tflags owner\n\n", "", 1))
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("nft list table (-want +got; go test -update writes it):\n%s", diff)
			}
			// Each rule is the nft text beside it in rules.go.
			rs := ruleset.Ruleset{LogGroup: 100, LogRate: 10_000}
			for _, r := range rules(planBlock(tt.block), planAllow(effective(tt.block, tt.allow)), rs, h.table.counting) {
				if !strings.Contains(got, r.text) {
					t.Errorf("nft does not print the rule %q", r.text)
				}
			}
		})
	}
}

// plain removes the text that versions of nft and of the kernel print differently: the owner of the
// table, the number of elements of a set, the == of a masked lookup, a match of the family that other
// matches imply, and the counter of a key that a rule adds.
func plain(text string) string {
	text = regexp.MustCompile(`(?m) # (progname|count) .*$`).ReplaceAllString(text, "")
	// nft before 1.0.1 prints the mask of flags in another way.
	text = strings.ReplaceAll(text, "tcp flags & (fin | syn | rst | ack) == syn", "tcp flags syn / fin,syn,rst,ack")
	text = strings.ReplaceAll(text, "tcp flags & (fin | syn | rst | ack) != syn", "tcp flags != syn / fin,syn,rst,ack")
	text = regexp.MustCompile(`meta nfproto ipv6 (tcp flags|add)`).ReplaceAllString(text, "$1")
	return strings.NewReplacer(" == @", " @", " counter }", " }").Replace(text)
}

func (h *host) counters() (ruleset.Counters, error) {
	h.tb.Helper()
	r := h.reader() // counters works also after Close of the table
	defer func() { _ = r.Close() }()
	return (&Table{reads: r}).Counters()
}

// TestTopOfRange lists networks that reach the last address: their intervals have no end.
func TestTopOfRange(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.apply(list("254.0.0.0/7", "62.0.0.0/7", "fe00::/7"), list("255.255.255.0/24", "ffff:ffff:ffff::/48"))
	h.Check("listed", nettest.Addrs("254.0.0.0", "255.255.254.255", "fe12::1"), nettest.Addrs("61.1.1.1"))
	if n, err := h.counters(); err != nil || n.Packets4 != 2 || n.Packets6 != 1 {
		t.Errorf("counters: %+v, %v", n, err)
	}
	h.apply(list("224.0.0.0/3", "8000::/1"), list()) // other prefix lengths
	h.Check("top half", nettest.Addrs("254.0.0.0", "255.255.255.254", "fe12::1"), nettest.Addrs("61.1.1.1"))
	if n, err := h.counters(); err != nil || n.Packets4 != 4 || n.Packets6 != 2 {
		t.Errorf("counters: %+v, %v", n, err)
	}
}

// TestEmptySets checks that a set without elements is deleted.
func TestEmptySets(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.apply(list("185.16.39.79", "5.6.0.0/16", "2001:db8:f::79"), list("203.0.113.1"))
	h.apply(list("185.16.39.0/24"), list())
	out := h.Run("nft", "list", "table", "inet", tableName)
	for _, empty := range []string{"set blocklist6", "blocklist4_16", "whitelist"} {
		if strings.Contains(out, empty) {
			t.Errorf("empty %s still exists:\n%s", empty, out)
		}
	}
}

// TestCrash closes the connection without removing the table, as the kernel does for a killed
// process. On a kernel that lacks the requested flags the rules stay, other programs can change
// them, and Info returns a gap about that.
func TestCrash(t *testing.T) {
	t.Parallel()
	t.Run("release", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		if !nettest.TakesTable(t, nettest.TableOwner) {
			h.crashWithout("(Linux 5.12)")
			return
		}
		h.lists("table owner", "")
		h.apply(list("203.0.113.9"), list())
		h.Check("alive", nettest.Addrs("203.0.113.9"), nil)
		h.Run("nft", "flush", "ruleset")
		h.Check("after flush ruleset", nettest.Addrs("203.0.113.9"), nil)
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.Check("dead", nil, nettest.Addrs("203.0.113.9"))
		if n, err := h.counters(); err != nil || n != (ruleset.Counters{}) {
			t.Errorf("counters of a table that is gone: %+v, %v; want none", n, err)
		}
		if out := h.Run("nft", "list", "ruleset"); out != "" {
			t.Errorf("left behind:\n%s", out)
		}
	})
	t.Run("keep", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{Keep: true})
		if !nettest.TakesTable(t, nettest.TableOwner|nettest.TablePersist) {
			h.crashWithout("(Linux 6.9)")
			return
		}
		h.lists("table persist", "")
		h.apply(list("203.0.113.9", "45.9.20.0/24"), list())
		h.adopt()

		// After a return to Keep false, one transaction replaces the table, because it has other
		// flags.
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.open(Options{})
		h.apply(list("5.6.7.8"), list())
		h.Check("with other flags", nettest.Addrs("5.6.7.8"), nil)
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.Check("gone", nil, nettest.Addrs("5.6.7.8"))
	})
}

// crashWithout is TestCrash on a kernel that lacks the flags: the gap names the version that has
// them.
func (h *host) crashWithout(gap string) {
	h.tb.Helper()
	h.lists("", gap)
	h.apply(list("203.0.113.9", "45.9.20.0/24"), list())
	h.Run("nft", "flush", "set", "inet", tableName, "blocklist4_32")
	h.Do(func() {
		if _, err := h.table.Verify(); !errors.Is(err, ruleset.ErrMismatch) {
			h.tb.Errorf("changed by another program: got %v, want %v", err, ruleset.ErrMismatch)
		}
	})
	h.apply(list("203.0.113.9", "45.9.20.0/24"), list())
	h.adopt()
	h.Do(func() {
		if err := h.table.Remove(); err != nil {
			h.tb.Error(err)
		}
	})
	h.Check("removed", nil, nettest.Addrs("5.6.7.8"))
}

// lists checks that Info returns the feature and a gap that contains the text gap. An empty feature
// is not checked. An empty gap means that no gap mentions other programs.
func (h *host) lists(feature, gap string) {
	h.tb.Helper()
	i := h.table.Info()
	if feature != "" && !slices.Contains(i.Features, feature) {
		h.tb.Errorf("features %q lack %q", i.Features, feature)
	}
	gaps := strings.Join(i.Gaps, "|")
	if gap != "" && !strings.Contains(gaps, gap) || gap == "" && strings.Contains(gaps, "other programs") {
		h.tb.Errorf("gaps %q, want one with %q", i.Gaps, gap)
	}
}

// adopt kills the agent, whose rules stay, and has the next agent adopt them.
func (h *host) adopt() {
	h.tb.Helper()
	keep := h.table.keep
	h.Under(nettest.Addrs("45.9.20.7"), nil, func() {
		if err := h.table.Close(); err != nil {
			h.tb.Fatal(err)
		}
		h.Check("dead", nettest.Addrs("203.0.113.9"), nil)
		before, err := h.counters()
		if err != nil {
			h.tb.Fatal(err)
		}
		h.open(Options{Keep: keep})
		handle := h.handle()
		defer func() {
			if after, err := h.counters(); err != nil || after.Packets4 < before.Packets4 {
				h.tb.Errorf("counters went from %+v to %+v, %v", before, after, err)
			}
		}()
		h.Check("opened again", nettest.Addrs("203.0.113.9"), nil)
		h.apply(list("45.9.20.7", "5.6.7.8"), list())
		if got := h.handle(); got != handle {
			h.tb.Errorf("the table was replaced instead of adopted: its handle went from %s to %s", handle, got)
		}
	})
	h.Check("adopted", nettest.Addrs("5.6.7.8"), nettest.Addrs("203.0.113.9"))
	n, err := h.counters()
	if err != nil || n.Packets4 < 3 {
		h.tb.Errorf("counters after adoption: %+v, %v", n, err)
	}
}

// handle returns the number that the kernel gave the table: a new table has another one.
func (h *host) handle() string {
	h.tb.Helper()
	text := h.Run("nft", "--handle", "list", "table", "inet", tableName)
	re := regexp.MustCompile(`table inet sikkerguard \{ (?:# progname \S+ )?# handle (\d+)`)
	return re.FindStringSubmatch(text)[1]
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	t.Run("bad second agent", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		h.apply(list("203.0.113.9"), list())
		h.Do(func() {
			if _, err := Open(Options{}); !errors.Is(err, ErrOwned) {
				t.Errorf("got %v, want %v", err, ErrOwned)
			}
		})
		h.Check("after the second agent", nettest.Addrs("203.0.113.9"), nil)
	})
	t.Run("bad second agent before the first list", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		h.Do(func() {
			if _, err := Open(Options{}); !errors.Is(err, ErrOwned) {
				t.Errorf("got %v, want %v", err, ErrOwned)
			}
		})
	})
	t.Run("bad second agent, table without owner", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		h.table.flags = 0 // as on a kernel without owner
		h.apply(list("203.0.113.9"), list())
		for _, keep := range []bool{false, true} {
			h.Do(func() {
				if _, err := Open(Options{Keep: keep}); !errors.Is(err, ErrOwned) {
					t.Errorf("keep %v: got %v, want %v", keep, err, ErrOwned)
				}
				if found, err := Cleanup(); found != "" || !errors.Is(err, ErrOwned) {
					t.Errorf("cleanup: got %v, %v, want %v", found, err, ErrOwned)
				}
			})
		}
		h.Check("after the second agent", nettest.Addrs("203.0.113.9"), nil)
	})
	t.Run("bad second agent, first without lock", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		first := h.table
		if err := first.lock.Close(); err != nil { // as an agent of another version
			t.Fatal(err)
		}
		h.open(Options{})
		h.apply(list("203.0.113.9"), list())
		h.table = first
		_, err := h.tryApply(list("203.0.113.9"), list())
		if nettest.TakesTable(t, nettest.TableOwner) && !errors.Is(err, ErrOwned) {
			t.Errorf("got %v, want %v", err, ErrOwned)
		}
	})
	t.Run("bad no capability", func(t *testing.T) {
		t.Parallel()
		ns := nettest.New(t)
		ns.Do(func() {
			dropCapabilities(t)
			if _, err := Open(Options{}); !errors.Is(err, ErrPermission) {
				t.Errorf("got %v, want %v", err, ErrPermission)
			}
		})
	})
}

// TestOpenWaitsForOwner checks that Open waits for a killed agent, which may own its table for a
// moment longer.
func TestOpenWaitsForOwner(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Keep: true})
	h.apply(list("203.0.113.9"), list())
	first := h.table
	time.AfterFunc(ownerTimeout/4, func() { _ = first.Close() })
	h.open(Options{Keep: true})
	h.apply(list("203.0.113.9", "5.6.7.8"), list())
	h.Check("second agent", nettest.Addrs("203.0.113.9", "5.6.7.8"), nil)
}

// dropCapabilities removes every capability from the calling thread.
func dropCapabilities(t *testing.T) {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		t.Errorf("drop capabilities: %v", err)
	}
}

// TestMismatch has another program change the table: Verify returns ErrMismatch, and the next Apply
// restores it.
func TestMismatch(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner: others may change the table
	block := list("203.0.113.9", "203.0.113.10", "45.9.20.0/24", "62.0.0.0/7")
	tests := []struct{ name, nft string }{
		{"bad element gone", "delete element inet sikkerguard blocklist4_32 { 203.0.113.9 }"},
		{"bad element exchanged", "delete element inet sikkerguard blocklist4_32 { 203.0.113.9 }; " +
			"add element inet sikkerguard blocklist4_32 { 203.0.113.8 }"},
		{"bad set flushed", "flush set inet sikkerguard blocklist4_any"},
		{"bad chain flushed", "flush chain inet sikkerguard prerouting"},
		{"bad rule added", "insert rule inet sikkerguard prerouting accept"},
		{"bad rule exchanged", "replace rule inet sikkerguard blocked4 handle HANDLE accept"},
		{"bad table deleted", "delete table inet sikkerguard"},
		{"bad dormant table", "add table inet sikkerguard { flags dormant; }"},
		{"bad policy", "add chain inet sikkerguard prerouting { policy drop; }"},
		{
			"bad chain on another hook",
			"flush chain inet sikkerguard prerouting; delete chain inet sikkerguard prerouting; " +
				"add chain inet sikkerguard prerouting { type filter hook input priority -300; }; " +
				"add rule inet sikkerguard prerouting ip saddr @blocklist4_32 jump blocked4; " +
				"add rule inet sikkerguard prerouting ip saddr and 255.255.255.0 @blocklist4_24 jump blocked4; " +
				"add rule inet sikkerguard prerouting ip saddr @blocklist4_any jump blocked4",
		},
		{
			"bad set with a timeout",
			"flush chain inet sikkerguard prerouting; delete set inet sikkerguard blocklist4_24; " +
				"add set inet sikkerguard blocklist4_24 { type ipv4_addr; size 4096; timeout 1h; }; " +
				"add element inet sikkerguard blocklist4_24 { 45.9.20.0 }; " +
				"add rule inet sikkerguard prerouting ip saddr @blocklist4_32 jump blocked4; " +
				"add rule inet sikkerguard prerouting ip saddr and 255.255.255.0 @blocklist4_24 jump blocked4; " +
				"add rule inet sikkerguard prerouting ip saddr @blocklist4_any jump blocked4",
		},
		{"bad foreign chain", "add chain inet sikkerguard evil " +
			"{ type filter hook prerouting priority -400; policy drop; }"},
	}
	for _, tt := range tests {
		h.apply(block, list())
		listing := h.Run("nft", "--handle", "list", "chain", "inet", tableName, "blocked4")
		handle := regexp.MustCompile(`drop # handle (\d+)`).FindStringSubmatch(listing)[1]
		h.Run("nft", strings.ReplaceAll(tt.nft, "HANDLE", handle))
		h.Do(func() {
			if _, err := h.table.Verify(); !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%s: got %v, want %v", tt.name, err, ruleset.ErrMismatch)
			}
		})
		h.apply(block, list()) // repairs
		h.Check("after "+tt.name, nettest.Addrs("203.0.113.9", "62.1.1.1"), nettest.Addrs("203.0.113.8"))
	}
}
