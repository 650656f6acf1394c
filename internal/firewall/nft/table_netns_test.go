package nft

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// host is a server behind our table and an attacker that may send from any source.
type host struct {
	*nettest.NS
	tb     testing.TB
	table  *Table
	sender *nettest.Sender
	recv   *nettest.Receiver
	probes int
}

const recvPort = 9

var (
	server4 = netip.MustParseAddr("192.0.2.1")
	server6 = netip.MustParseAddr("2001:db8::1")
	friend  = netip.MustParseAddr("192.0.2.99") // never on a list
)

func newHost(tb testing.TB, o Options) *host {
	tb.Helper()
	server, attacker := nettest.New(tb), nettest.New(tb)
	nettest.Link(server, attacker, "sg0",
		[]netip.Prefix{netip.PrefixFrom(server4, 24), netip.PrefixFrom(server6, 64)},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	server.DefaultRoute("sg0")
	h := &host{
		NS: server, tb: tb,
		sender: nettest.NewSender(tb, attacker, server, "sg0"),
		recv:   nettest.Listen(tb, server, recvPort),
	}
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

func (h *host) apply(block, allow blocklist.Blocklist) ruleset.Evidence {
	h.tb.Helper()
	e, err := h.tryApply(block, allow)
	if err != nil {
		h.tb.Fatalf("apply: %v", err)
	}
	if e.Entries() != block.Len() || e.Sampled == 0 && block.Len() > 0 {
		h.tb.Fatalf("evidence %+v for %d entries", e, block.Len())
	}
	return e
}

func (h *host) tryApply(block, allow blocklist.Blocklist) (e ruleset.Evidence, err error) {
	h.tb.Helper()
	h.Do(func() {
		e, err = h.table.Apply(h.tb.Context(), ruleset.Ruleset{Block: block, Allow: allow, LogGroup: 100, LogRate: 10_000})
	})
	return e, err
}

// send sends one datagram from src.
func (h *host) send(src netip.Addr, text string) {
	dst := server4
	if src.Is6() {
		dst = server6
	}
	h.sender.UDP(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(dst, recvPort), text)
}

// settle returns when everything sent before has been decided.
func (h *host) settle() {
	h.tb.Helper()
	h.probes++
	text := fmt.Sprintf("settle %d", h.probes)
	h.send(friend, text)
	if !h.recv.Await(text, 10*time.Second) {
		h.tb.Fatal("a datagram from an unlisted source did not get through")
	}
}

// check sends one packet from each source, and says which got through that should not, and the other way round.
func (h *host) check(when string, blocked, open []netip.Addr) {
	h.tb.Helper()
	before := map[netip.Addr]int{}
	for _, a := range slices.Concat(blocked, open) {
		before[a] = h.recv.Seen(a)
		h.send(a, "knock")
	}
	h.settle()
	for _, a := range blocked {
		if n := h.recv.Seen(a) - before[a]; n != 0 {
			h.tb.Errorf("%s: %v is listed and got through", when, a)
		}
	}
	for _, a := range open {
		if n := h.recv.Seen(a) - before[a]; n != 1 {
			h.tb.Errorf("%s: %v is not listed and %d of 1 packets got through", when, a, n)
		}
	}
}

func addrs(ss ...string) []netip.Addr {
	var as []netip.Addr
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// TestGolden compares the table with what the design shows, as nft prints it.
func TestGolden(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		block, allow blocklist.Blocklist
	}{
		{"mixed", list("185.16.39.79", "45.9.20.0/24", "5.6.0.0/16", "62.0.0.0/7", "2001:db8:f::79", "2001:db8:9:1::/64", "2001:db8:a::/48",
			"2001:dba::/32", "2001:db8:0:b000::/52"), list("10.0.0.0/8", "192.0.2.1", "::1", "fc00::/7")},
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
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("nft list table (-want +got; go test -update writes it):\n%s", diff)
			}
			// Each rule is the text beside it in rules.go.
			for _, r := range rules(planBlock(tt.block), planAllow(tt.allow), ruleset.Ruleset{LogGroup: 100, LogRate: 10_000}) {
				if !strings.Contains(got, r.text) {
					t.Errorf("nft does not print the rule %q", r.text)
				}
			}
		})
	}
}

// plain takes out what versions of nft print differently: who owns the table, how many elements a set has, and whether a
// masked lookup is written with ==.
func plain(text string) string {
	text = regexp.MustCompile(`(?m) # (progname|count) .*$`).ReplaceAllString(text, "")
	return strings.ReplaceAll(text, " == @", " @")
}

// TestBlocks asks about packets: who gets through?
func TestBlocks(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.apply(
		list("185.16.39.79", "45.9.20.0/24", "45.9.24.0/22", "5.6.0.0/16", "62.0.0.0/7", "8.8.8.0/26", "203.0.113.0/29", "255.0.0.0/8",
			"2001:db8:f::79", "2001:db8:9:1::/64", "2001:db8:a::/48", "2001:dba::/32", "2001:db8:0:b000::/52"),
		list("203.0.113.1", "2001:db8:9:1::1"))
	h.check("first list",
		addrs("185.16.39.79", "45.9.20.0", "45.9.20.255", "45.9.24.0", "45.9.27.255", "5.6.0.0", "5.6.255.255", "62.0.0.0", "63.255.255.255",
			"8.8.8.0", "8.8.8.63", "203.0.113.0", "203.0.113.2",
			"2001:db8:f::79", "2001:db8:9:1:ffff::", "2001:db8:a:ffff::1", "2001:dba:ffff::1", "2001:db8:0:bfff:ffff:ffff:ffff:ffff"),
		addrs("185.16.39.78", "185.16.39.80", "45.9.19.255", "45.9.21.0", "45.9.28.0", "5.5.255.255", "5.7.0.0", "61.255.255.255", "64.0.0.0",
			"8.8.8.64", "203.0.113.8", "203.0.113.1", // whitelisted
			"2001:db8:f::78", "2001:db8:9:2::", "2001:db8:9:1::1", "2001:db8:b::1", "2001:dbb::1", "2001:db8:0:c000::"))
	n, err := h.counters()
	if err != nil || n.Packets4 != 13 || n.Packets6 != 5 || n.Bytes4 == 0 || n.Bytes6 == 0 {
		t.Errorf("counters: %+v, %v; want 13 and 5 packets", n, err)
	}

	// The next list: another width for the same space, IPv6 gone, the whitelist gone.
	h.apply(list("185.16.39.0/24", "203.0.113.1"), list())
	h.check("second list", addrs("185.16.39.79", "185.16.39.80", "203.0.113.1"), addrs("45.9.20.0", "2001:db8:f::79", "203.0.113.2"))
	if n, err := h.counters(); err != nil || n.Packets4 != 16 || n.Packets6 != 5 {
		t.Errorf("counters after a refresh: %+v, %v; want 16 and 5 packets", n, err)
	}
	if out := h.Run("nft", "list", "table", "inet", tableName); strings.Contains(out, "set blocklist6") || strings.Contains(out, "blocklist4_16") ||
		strings.Contains(out, "whitelist") {
		t.Errorf("sets that hold nothing are still there:\n%s", out)
	}
}

func (h *host) counters() (n ruleset.Counters, err error) {
	h.tb.Helper()
	h.Do(func() { n, err = h.table.Counters() })
	return n, err
}

// flood sends packets from the sources in turn until it is stopped; then it says how many.
type flood struct {
	sent  atomic.Int64
	stopC chan struct{}
	doneC chan struct{}
}

func (h *host) flood(sources []netip.Addr) *flood {
	f := &flood{stopC: make(chan struct{}), doneC: make(chan struct{})}
	go func() {
		defer close(f.doneC)
		for i := 0; ; i++ {
			select {
			case <-f.stopC:
				return
			default:
			}
			h.send(sources[i%len(sources)], "flood")
			f.sent.Add(1)
			if i%64 == 63 {
				time.Sleep(2 * time.Millisecond) // at most some 25,000 packets a second
			}
		}
	}()
	return f
}

// more waits until n more packets have been sent.
func (f *flood) more(n int64) {
	for until := f.sent.Load() + n; f.sent.Load() < until; {
		time.Sleep(time.Millisecond)
	}
}

func (f *flood) stop() int {
	close(f.stopC)
	<-f.doneC
	return int(f.sent.Load())
}

// under runs change while packets come from blocked sources, before it, during it and after it, and reports any that got
// through.
func (h *host) under(blocked []netip.Addr, change func()) {
	h.tb.Helper()
	before := map[netip.Addr]int{}
	for _, a := range blocked {
		before[a] = h.recv.Seen(a)
	}
	sent := 0
	func() {
		f := h.flood(blocked)
		defer func() { sent = f.stop() }() // change may end the test
		f.more(256)
		change()
		f.more(256)
	}()
	h.settle()
	for _, a := range blocked {
		if n := h.recv.Seen(a) - before[a]; n != 0 {
			h.tb.Errorf("%d packets from %v got through during the change", n, a)
		}
	}
	h.tb.Logf("%d packets from listed sources during the change", sent)
}

// random is n different addresses from 50.0.0.0 to 119.255.255.255.
func random(n int, seed uint64) []netip.Prefix {
	rng := rand.New(rand.NewPCG(seed, 1))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		ps[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(50 + rng.IntN(70)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}), 32)
	}
	return ps
}

// TestRefreshUnderTraffic swaps lists of every shape while listed sources send: the same sets, sets that come and go, and
// sets that are outgrown.
func TestRefreshUnderTraffic(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	// The last address of a set comes into force last, if they do not all at once.
	always := addrs("45.9.20.7", "62.1.1.1", "222.9.9.9")
	with := func(ps []netip.Prefix, ss ...string) blocklist.Blocklist {
		return blocklist.New(slices.Concat(ps, list(ss...).Prefixes(), random(3000, 9)))
	}
	h.apply(with(nil, "45.9.20.7", "62.1.1.1", "222.9.9.9"), list())
	for _, step := range []struct {
		name string
		list blocklist.Blocklist
	}{
		{"the same sets", with(random(1000, 2), "45.9.20.7", "62.1.1.1", "222.9.9.9")},
		{"as networks, in sets that are new", with(nil, "45.9.20.0/24", "62.0.0.0/7", "222.9.9.9")},
		{"as another width, in sets that come and go", with(nil, "45.9.0.0/16", "62.1.0.0/20", "222.9.9.0/24")},
		{"sets outgrown", with(random(60_000, 3), "45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:f::1")},
		{"sets outgrown again", with(random(150_000, 4), "45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:f::1")},
		{"small again", with(nil, "45.9.20.7", "62.1.1.1", "222.9.9.9")},
	} {
		h.under(always, func() {
			t.Log(step.name)
			h.apply(step.list, list("10.0.0.0/8"))
		})
		h.check(step.name, always, addrs("45.10.20.7", "61.1.1.1"))
		if out := h.Run("nft", "list", "sets", "inet"); strings.Contains(out, "grown") {
			t.Errorf("%s: a stand-in is left behind", step.name)
		}
	}
}

// TestCrash closes the connection without removing the table, as the kernel does for a killed process.
func TestCrash(t *testing.T) {
	t.Parallel()
	t.Run("release", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		if !slices.Contains(h.table.Info().Features, "table owner") {
			t.Fatal("this kernel has no owner flag")
		}
		h.apply(list("203.0.113.9"), list())
		h.check("alive", addrs("203.0.113.9"), nil)
		h.Run("nft", "flush", "ruleset")
		h.check("after flush ruleset", addrs("203.0.113.9"), nil)
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.check("dead", nil, addrs("203.0.113.9"))
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
		if !slices.Contains(h.table.Info().Features, "table persist") {
			t.Fatal("this kernel has no persist flag")
		}
		h.apply(list("203.0.113.9", "45.9.20.0/24"), list())
		h.under(addrs("45.9.20.7"), func() {
			if err := h.table.Close(); err != nil {
				t.Fatal(err)
			}
			h.check("dead", addrs("203.0.113.9"), nil)
			before, err := h.counters()
			if err != nil {
				t.Fatal(err)
			}
			h.open(Options{Keep: true})
			if h.table.replace || !h.table.enforce {
				t.Error("the table is made anew, not taken over")
			}
			defer func() {
				if after, err := h.counters(); err != nil || after.Packets4 < before.Packets4 {
					t.Errorf("counters went from %+v to %+v, %v", before, after, err)
				}
			}()
			h.check("opened again", addrs("203.0.113.9"), nil)
			h.apply(list("45.9.20.7", "5.6.7.8"), list())
		})
		h.check("adopted", addrs("5.6.7.8"), addrs("203.0.113.9"))
		n, err := h.counters()
		if err != nil || n.Packets4 < 3 {
			t.Errorf("counters after adoption: %+v, %v", n, err)
		}

		// Back to release: the table is made anew with other flags, in one transaction.
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.open(Options{})
		h.apply(list("5.6.7.8"), list())
		h.check("with other flags", addrs("5.6.7.8"), nil)
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.check("gone", nil, addrs("5.6.7.8"))
	})
}

// TestLeavesHostAsItWas compares the whole ruleset, other tables included, before and after.
func TestLeavesHostAsItWas(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.Run("nft", `add table inet other; add chain inet other input { type filter hook input priority 0; policy accept; };`+
		`add set inet other s { type ipv4_addr; elements = { 1.2.3.4 } }; add rule inet other input ip saddr @s counter drop;`+
		`add table ip sikkerguard; add chain ip sikkerguard c`)
	before := h.Run("nft", "list", "ruleset")
	h.apply(list("203.0.113.9", "2001:db8:f::1"), list("10.0.0.0/8"))
	during := h.Run("nft", "list", "ruleset")
	if !strings.HasPrefix(during, before) {
		t.Errorf("other tables changed (-want +got):\n%s", cmp.Diff(before, during))
	}
	h.Do(func() {
		if err := h.table.Remove(); err != nil {
			t.Error(err)
		}
		if err := h.table.Remove(); err != nil {
			t.Errorf("remove what is gone: %v", err)
		}
	})
	if diff := cmp.Diff(before, h.Run("nft", "list", "ruleset")); diff != "" {
		t.Errorf("ruleset (-want +got):\n%s", diff)
	}
	// And it can be put in place again.
	h.apply(list("203.0.113.9"), list())
	h.check("again", addrs("203.0.113.9"), nil)
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
		h.check("after the second agent", addrs("203.0.113.9"), nil)
	})
	t.Run("bad second agent that came first", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		first := h.table
		h.open(Options{})
		h.apply(list("203.0.113.9"), list())
		h.table = first
		if _, err := h.tryApply(list("203.0.113.9"), list()); !errors.Is(err, ErrOwned) {
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

// dropCapabilities takes every capability from the calling thread.
func dropCapabilities(t *testing.T) {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		t.Errorf("drop capabilities: %v", err)
	}
}

// TestMismatch changes the kernel underneath: the evidence must not lie.
func TestMismatch(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner: others may change the table
	block := list("203.0.113.9", "203.0.113.10", "45.9.20.0/24", "62.0.0.0/7")
	tests := []struct{ name, nft string }{
		{"bad element gone", "delete element inet sikkerguard blocklist4_32 { 203.0.113.9 }"},
		{"bad element exchanged", "delete element inet sikkerguard blocklist4_32 { 203.0.113.9 }; add element inet sikkerguard blocklist4_32 { 203.0.113.8 }"},
		{"bad set flushed", "flush set inet sikkerguard blocklist4_any"},
		{"bad chain flushed", "flush chain inet sikkerguard prerouting"},
		{"bad rule added", "insert rule inet sikkerguard prerouting accept"},
		{"bad rule exchanged", "replace rule inet sikkerguard blocked4 handle HANDLE accept"},
		{"bad table deleted", "delete table inet sikkerguard"},
		{"bad table put to sleep", "add table inet sikkerguard { flags dormant; }"},
		{"bad policy", "add chain inet sikkerguard prerouting { policy drop; }"},
		{"bad chain of somebody's", "add chain inet sikkerguard evil { type filter hook prerouting priority -400; policy drop; }"},
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
		h.apply(block, list()) // the same code repairs
		h.check("after "+tt.name, addrs("203.0.113.9", "62.1.1.1"), addrs("203.0.113.8"))
	}
}

// TestPresent: a look at the kernel tells at once that the table, its base chain or its effect is gone, and does not wait
// for who changes it.
func TestPresent(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner
	h.apply(list("203.0.113.9"), list())
	present := func() (err error) {
		h.Do(func() { err = h.table.Present() })
		return err
	}
	h.table.mu.Lock()
	err := present()
	h.table.mu.Unlock()
	if err != nil {
		t.Fatalf("in force: %v", err)
	}
	for _, change := range []string{
		"delete table inet sikkerguard", "flush ruleset", "add table inet sikkerguard { flags dormant; }",
		"delete chain inet sikkerguard prerouting",
	} {
		if strings.HasPrefix(change, "delete chain") {
			h.Run("nft", "flush chain inet sikkerguard prerouting")
		}
		h.Run("nft", change)
		if err := present(); !errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("%s: got %v, want %v", change, err, ruleset.ErrMismatch)
		}
		h.apply(list("203.0.113.9"), list())
		if err := present(); err != nil {
			t.Errorf("put right after %s: %v", change, err)
		}
	}
}

// TestWatch changes the kernel underneath a table that others may change: each change is told within a second or so, and
// changes of other tables are not.
func TestWatch(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner
	block := list("203.0.113.9", "45.9.20.0/24")
	h.apply(block, list())
	ctx, cancel := context.WithCancel(t.Context())
	lostC, doneC := make(chan error, 16), make(chan error, 1)
	go func() {
		var err error
		h.Do(func() { err = h.table.Watch(ctx, func(err error) { lostC <- err }) })
		doneC <- err
	}()
	h.Run("nft", "add table inet other")
	h.apply(list("203.0.113.9", "45.9.20.0/24", "5.6.7.8"), list("10.0.0.0/8")) // our own change
	h.apply(block, list())
	time.Sleep(2 * watchInterval)
	select {
	case err := <-lostC:
		t.Errorf("nothing was lost: %v", err)
	default:
	}
	for _, change := range []string{
		"delete table inet sikkerguard", "flush ruleset", "flush set inet sikkerguard blocklist4_24", "flush chain inet sikkerguard blocked4",
	} {
		h.Run("nft", change)
		start := time.Now()
		select {
		case err := <-lostC:
			if !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%s: got %v, want %v", change, err, ruleset.ErrMismatch)
			}
			t.Logf("%s: noticed after %v: %v", change, time.Since(start), err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not noticed", change)
		}
		h.apply(block, list())
		h.check("repaired after "+change, addrs("203.0.113.9", "45.9.20.1"), addrs("203.0.113.8"))
	}
	cancel()
	if err := <-doneC; err != nil {
		t.Errorf("watch: %v", err)
	}
}

func TestCleanup(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{Keep: true})
	h.Run("nft", "add table inet other")
	before := h.Run("nft", "list", "ruleset")
	cleanup := func() (found bool, err error) {
		h.Do(func() { found, err = Cleanup() })
		return found, err
	}
	if found, err := cleanup(); found || err != nil {
		t.Errorf("nothing to clean up: got %v, %v", found, err)
	}
	h.apply(list("203.0.113.9"), list())
	if _, err := cleanup(); !errors.Is(err, ErrOwned) {
		t.Errorf("while it runs: got %v, want %v", err, ErrOwned)
	}
	if err := h.table.Close(); err != nil {
		t.Fatal(err)
	}
	h.check("killed", addrs("203.0.113.9"), nil)
	if found, err := cleanup(); !found || err != nil {
		t.Errorf("after it was killed: got %v, %v", found, err)
	}
	if diff := cmp.Diff(before, h.Run("nft", "list", "ruleset")); diff != "" {
		t.Errorf("ruleset (-want +got):\n%s", diff)
	}
}
