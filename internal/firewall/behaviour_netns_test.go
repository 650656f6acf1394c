package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// The tests of this file run against every backend. They check which packets pass, and the state of
// the host afterwards.

// TestBlocks checks which sources get through and what the counters say.
func TestBlocks(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		h.start()
		if i := h.fw.Info(); i.Name != h.info || i.Reason != h.reason {
			t.Errorf("got %+v, want %s because %s", i, h.info, h.reason)
		}
		h.apply(
			list("185.16.39.79", "45.9.20.0/24", "45.9.24.0/22", "5.6.0.0/16", "62.0.0.0/7", "8.8.8.0/26",
				"203.0.113.0/29", "255.0.0.0/8",
				"2001:db8:f::79", "2001:db8:9:1::/64", "2001:db8:a::/48", "2001:dba::/32", "2001:db8:0:b000::/52"),
			list("203.0.113.1", "2001:db8:9:1::1"))
		h.Check("first list",
			nettest.Addrs("185.16.39.79", "45.9.20.0", "45.9.20.255", "45.9.24.0", "45.9.27.255", "5.6.0.0",
				"5.6.255.255", "62.0.0.0", "63.255.255.255", "8.8.8.0", "8.8.8.63", "203.0.113.0", "203.0.113.2",
				"2001:db8:f::79", "2001:db8:9:1:ffff::", "2001:db8:a:ffff::1", "2001:dba:ffff::1",
				"2001:db8:0:bfff:ffff:ffff:ffff:ffff"),
			nettest.Addrs("185.16.39.78", "185.16.39.80", "45.9.19.255", "45.9.21.0", "45.9.28.0", "5.5.255.255",
				"5.7.0.0", "61.255.255.255", "64.0.0.0", "8.8.8.64", "203.0.113.8",
				"203.0.113.1", // allowlisted
				"2001:db8:f::78", "2001:db8:9:2::", "2001:db8:9:1::1", "2001:db8:b::1", "2001:dbb::1",
				"2001:db8:0:c000::"))
		if n := h.counters(); n.Packets4 != 13 || n.Packets6 != 5 || n.Bytes4 == 0 || n.Bytes6 == 0 {
			t.Errorf("counters: %+v; want 13 and 5 packets", n)
		}
		// The next list has another prefix length for the same addresses, no IPv6 and no allowlist.
		h.apply(list("185.16.39.0/24", "203.0.113.1"), list())
		h.Check("second list", nettest.Addrs("185.16.39.79", "185.16.39.80", "203.0.113.1"),
			nettest.Addrs("45.9.20.0", "2001:db8:f::79", "203.0.113.2"))
		if n := h.counters(); n.Packets4 != 16 || n.Packets6 != 5 {
			t.Errorf("counters after a refresh: %+v; want 16 and 5 packets", n)
		}
		h.noLeftovers("second list")
	})
}

// TestRefreshUnderTraffic applies lists of every shape while listed and unlisted sources send.
func TestRefreshUnderTraffic(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		h.start()
		always := nettest.Addrs("45.9.20.7", "62.1.1.1", "222.9.9.9")
		never := nettest.Addrs("192.0.2.50", "9.9.9.9", "46.1.2.3")
		with := func(ps []netip.Prefix, ss ...string) blocklist.Blocklist {
			return blocklist.New(slices.Concat(ps, list(ss...).Prefixes(), random(3000, 9)))
		}
		// 46.1.2.3 is never listed without being allowlisted. As the agent does, the test removes
		// allowlisted addresses from the list.
		h.apply(with(nil, "45.9.20.7", "62.1.1.1", "222.9.9.9"), list("46.1.2.3"))
		for _, step := range []struct {
			name        string
			list, allow blocklist.Blocklist
		}{
			{"the same shape", with(random(1000, 2), "45.9.20.7", "62.1.1.1", "222.9.9.9"), list("10.0.0.0/8")},
			{
				"as networks",
				with(nil, "45.9.20.0/24", "62.0.0.0/7", "222.9.9.9", "46.0.0.0/8"),
				list("10.0.0.0/8", "46.1.0.0/16"),
			},
			{
				"other prefix lengths",
				with(nil, "45.9.0.0/16", "62.1.0.0/20", "222.9.9.0/24"),
				list("10.0.0.0/8", "46.0.0.0/8"),
			},
			{
				"much larger",
				with(random(scaled(60_000), 3), "45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:f::1"),
				list(),
			},
			{
				"larger again",
				with(random(scaled(150_000), 4), "45.9.20.7", "62.1.1.1", "222.9.9.9", "46.1.2.0/24"),
				list("46.1.2.3", "::1"),
			},
			{"small again", with(nil, "45.9.20.7", "62.1.1.1", "222.9.9.9"), list()},
		} {
			h.Under(always, never, func() { h.apply(step.list.Without(step.allow), step.allow) })
			h.Check(step.name, always, slices.Concat(never, nettest.Addrs("45.10.20.7", "61.1.1.1")))
			h.noLeftovers(step.name)
		}
		if h.counters().Packets4 < 6*512 {
			t.Errorf("counters after six refreshes: %+v", h.counters())
		}
	})
}

// TestRealList loads a published list whole, and checks by packets that 200 listed sources are
// dropped and 200 others pass: before, during and after refreshes.
func TestRealList(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		ps := realList(t)
		l := blocklist.New(slices.Clone(ps))
		listed, unlisted := sample(l, 200)
		h.start()
		e := h.apply(l, list("10.0.0.0/8"))
		t.Logf("%d entries in %v: %+v", e.Entries(), e.Took, e)
		h.Check("before", listed, unlisted)
		h.Under(listed, unlisted, func() {
			for i := range 3 {
				// Four fifths of the list stay, others are new. The sampled sources are always on
				// it.
				next := slices.Concat(ps[:100_000], random(20_000, uint64(i)), hosts(listed).Prefixes())
				h.apply(blocklist.New(next).Without(hosts(unlisted)), list("10.0.0.0/8"))
			}
		})
		h.Check("after", listed, unlisted)
	})
}

// TestHalfAMillion loads 500,000 entries of both families, or 50,000 with -short: addresses, /24
// networks and other prefix lengths.
func TestHalfAMillion(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		h.start()
		l := big(scaled(500_000))
		e := h.apply(l, list("10.0.0.0/8"))
		t.Logf("%d entries in %v: %+v", e.Entries(), e.Took, e)
		listed, _ := sample(l, 200)
		h.Check("loaded", listed, nettest.Addrs("9.9.9.9", "192.0.2.77"))
		h.apply(list("203.0.113.9"), list())
		h.Check("one entry", nettest.Addrs("203.0.113.9"), listed)
	})
}

// TestRollback applies an earlier list again, and checks that an Apply that fails changes nothing.
func TestRollback(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		h.start()
		good, bad := list("203.0.113.9", "2001:db8:f::1"), list("203.0.113.10", "2001:db8:f::2", "9.9.9.0/24")
		check := func(when string) {
			h.Check(when, nettest.Addrs("203.0.113.9", "2001:db8:f::1"),
				nettest.Addrs("203.0.113.10", "2001:db8:f::2", "9.9.9.9"))
		}
		h.apply(good, list())
		h.apply(bad, list())
		h.Check("bad", nettest.Addrs("203.0.113.10", "9.9.9.9"), nettest.Addrs("203.0.113.9"))
		h.apply(good, list())
		check("rolled back")

		before := h.snapshot()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		h.Do(func() {
			if _, err := h.fw.Apply(ctx, wanted(bad, list())); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			if _, err := h.fw.Verify(); err != nil {
				t.Errorf("verify after a failed Apply: %v", err)
			}
		})
		h.same("after a failed Apply", before)
		check("after a failed Apply")
	})
}

// TestTelemetry checks that the sensor receives dropped packets, that the counters agree, and that
// the log rate limits correctly if a rule can express the rate only approximately.
func TestTelemetry(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		h.start()
		s := sensor.New(sensor.Options{Group: 100})
		var err error
		h.Do(func() { err = s.Open() })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := errors.Join(<-doneC, s.Close()); err != nil {
				t.Error(err)
			}
		}()
		for i, rate := range []uint32{10_000, 7_000, 1_000_000, 5} {
			h.Do(func() {
				rs := wanted(list("203.0.113.0/24", "2001:db8:f::/64").Without(list("203.0.113.1")), list("203.0.113.1"))
				rs.LogRate = rate
				_, err = h.fw.Apply(t.Context(), rs)
			})
			if err != nil {
				t.Fatalf("rate %d: %v", rate, err)
			}
			// Each source is new: the kernel may count the packets of known ones without an event.
			for _, src := range nettest.Addrs("203.0.113.1", "203.0.114.8", fmt.Sprintf("203.0.113.%d", 10+i),
				fmt.Sprintf("203.0.113.%d", 20+i), fmt.Sprintf("2001:db8:f::%d", 1+i)) {
				h.Send(src, "knock")
			}
			h.Settle()
			want := uint64(3 * (i + 1))
			for end := time.Now().Add(10 * time.Second); s.Totals().Events < want && time.Now().Before(end); {
				time.Sleep(5 * time.Millisecond)
			}
			if n, got := h.counters(), s.Totals(); n.Packets() != want || got.Events != want || got.Lost != 0 {
				t.Errorf("rate %d: counted %d, logged %+v, want %d", rate, n.Packets(), got, want)
			}
		}
		var logged, counted []string
		for _, hit := range s.Take().Hits {
			logged = append(logged, fmt.Sprintf("%v:%d %d x%d", hit.Source, hit.Port, hit.Protocol, hit.Packets))
		}
		h.Do(func() {
			hits, herr := h.fw.Hits()
			if herr != nil {
				t.Error(herr)
			}
			for _, k := range hits.Counts {
				counted = append(counted, fmt.Sprintf("%v:%d %d x%d", k.Source, k.Port, k.Protocol, k.Packets))
			}
			if !hits.Supported {
				counted = slices.Clone(logged)
			}
		})
		slices.Sort(logged)
		slices.Sort(counted)
		if len(logged) != 12 || logged[0] != "2001:db8:f::1:9 17 x1" || logged[11] != "203.0.113.23:9 17 x1" {
			t.Errorf("logged: %q", logged)
		}
		if diff := cmp.Diff(logged, counted); diff != "" {
			t.Errorf("counted by key (-logged +counted):\n%s", diff)
		}
	})
}

// TestRepair removes the rules as another program would. Apply restores them, and the counters
// continue.
func TestRepair(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		if h.info == "nftables" {
			t.Skip("it changes rules of iptables; TestMismatch of nft changes those of nftables")
		}
		h.start()
		block := list("203.0.113.9", "2001:db8:f::1")
		h.apply(block, list())
		h.Check("before", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil)
		if n := h.counters(); n.Packets() != 2 {
			t.Fatalf("counters: %+v", n)
		}
		for i, harm := range [][]string{
			{h.rules, "-t", "raw", "-F"},
			{h.rules, "-t", "raw", "-F", "PREROUTING"},
			{h.rules, "-t", "raw", "-I", "PREROUTING", "-j", "ACCEPT"},
			{h.rules, "-t", "raw", "-I", "SIKKERGUARD", "2", "-j", "ACCEPT"},
			{strings.Replace(h.rules, "ip", "ip6", 1), "-t", "raw", "-D", "SIKKERGUARD-DROP", "-j", "DROP"},
			{"ipset", "flush", "sikkerguard-blocklist"},
			{"ipset", "add", "sikkerguard-whitelist6", "2001:db8:f::1"},
		} {
			h.Run(harm[0], harm[1:]...)
			h.Do(func() {
				if _, err := h.fw.Verify(); !errors.Is(err, ErrMismatch) {
					t.Errorf("%q: got %v, want %v", harm, err, ErrMismatch)
				}
			})
			h.apply(block, list())
			h.Check(fmt.Sprint("after ", harm), nettest.Addrs("203.0.113.9", "2001:db8:f::1"),
				nettest.Addrs("203.0.113.8"))
			if n := h.counters(); n.Packets() != uint64(2*i+4) {
				t.Errorf("counters after %q: %+v, want %d", harm, n, 2*i+4)
			}
		}
	})
}

// TestCleanup checks that Cleanup removes the rules of a killed agent, and nothing while an agent
// runs.
func TestCleanup(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		h.Run("nft", "add table inet other")
		h.Run("ipset", "create", "sikkerguard-foreign", "hash:ip")
		before := h.snapshot()
		cleanup := func() (removed []string, err error) {
			h.Do(func() { removed, err = Cleanup() })
			return removed, err
		}
		if removed, err := cleanup(); len(removed) > 0 || err != nil {
			t.Errorf("nothing to clean up: got %q, %v", removed, err)
		}
		h.start()
		h.apply(list("203.0.113.9", "2001:db8:f::1"), list())
		during := h.snapshot()
		if removed, err := cleanup(); err == nil || len(removed) > 0 {
			t.Errorf("while the agent runs: got %q, %v, want an error", removed, err)
		}
		for _, k := range h.beside() {
			h.Do(func() {
				if fw, err := k.open(true); err == nil {
					t.Errorf("second agent with %s: no error", k.name)
					_ = fw.Close()
				}
			})
		}
		h.same("after a second agent and a cleanup", during)
		h.Check("while the agent runs", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil)
		if err := h.fw.Close(); err != nil {
			t.Fatal(err)
		}
		h.Check("dead", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil)
		if removed, err := cleanup(); len(removed) == 0 || err != nil {
			t.Errorf("after the agent died: got %q, %v", removed, err)
		}
		h.same("after cleanup", before)
		h.Check("after cleanup", nil, nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
	})
}

// TestSuccession starts an agent of each kind after a dead one of each other kind. There is no gap,
// and only the second backend's rules remain.
func TestSuccession(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		before := h.snapshot()
		for _, k := range h.beside() {
			first := &host{Host: h.Host, kind: k, t: t, counts: h.counts}
			first.start()
			first.apply(list("203.0.113.9", "2001:db8:f::1"), list())
			if err := first.fw.Close(); err != nil {
				t.Fatal(err)
			}
			h.Under(nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil, func() {
				h.start()
				h.apply(list("203.0.113.9", "2001:db8:f::1", "5.6.7.8"), list())
			})
			h.apply(list("5.6.7.8"), list())
			h.Check("second agent after "+k.name, nettest.Addrs("5.6.7.8"),
				nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
			h.remove()
			if err := h.fw.Close(); err != nil {
				t.Fatal(err)
			}
			h.same("removed after "+k.name, before)
		}
	})
}

// TestForeignRules runs the backend beside the rules of ufw, Docker and fail2ban. They stay the
// same before, during and after, and packets pass through them as before.
func TestForeignRules(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		if h.info == "nftables" {
			load(h, "nft", "-f", "-")(foreignNFT)
		}
		load(h, "ipset", "restore")(foreignSets)
		load(h, h.rules+"-restore")(foreignRules4)
		load(h, strings.Replace(h.rules, "ip", "ip6", 1)+"-restore")(foreignRules6)
		before := h.snapshot()
		if !strings.Contains(before, "f2b-sshd") || !strings.Contains(before, "ufw-user-input") {
			t.Fatalf("the rules were not loaded:\n%s", before)
		}
		// fail2ban has banned 198.51.100.66.
		checkBan := func(when string) {
			h.Check(when, nettest.Addrs("198.51.100.66"), nettest.Addrs("192.0.2.50", "2001:db8::50"))
		}
		checkBan("before")
		h.start()
		h.same("opened", before)
		for _, l := range []blocklist.Blocklist{
			list("203.0.113.9", "2001:db8:f::1"), list("203.0.113.9", "5.6.7.0/24"), list("203.0.113.9"),
		} {
			h.apply(l, list("10.0.0.0/8"))
			if diff := cmp.Diff(others(before), others(h.snapshot())); diff != "" {
				t.Errorf("during: other rules changed (-want +got):\n%s", diff)
			}
			checkBan("during")
			h.Check("during", nettest.Addrs("203.0.113.9"), nil)
		}
		h.remove()
		h.same("after", before)
		checkBan("after")
		h.Check("after", nil, nettest.Addrs("203.0.113.9"))
	})
}

// load returns a function that runs the program with the given text on its standard input.
func load(h *host, name string, args ...string) func(string) {
	return func(text string) {
		h.t.Helper()
		cmd := exec.CommandContext(h.t.Context(), name, args...)
		var out bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
		if err := h.Start(cmd); err != nil {
			h.t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			h.t.Fatalf("%s: %v\n%s", name, err, out.String())
		}
	}
}
