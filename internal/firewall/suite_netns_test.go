package firewall

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/nft"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// kind is one of the backends that the suite runs against.
type kind struct {
	name   string
	open   func(keep bool) (Backend, error)
	info   string // Info.Name
	reason string // Info.Reason
	rules  string // the iptables whose rules the host has: iptables-nft or iptables-legacy
}

// noNFTables returns the error of nft.Open on a kernel without nf_tables.
func noNFTables(nft.Options) (Backend, error) {
	return nil, fmt.Errorf("probe nf_tables: %w", nft.ErrUnsupported)
}

func kinds() []kind {
	with := func(backend string, openNFT func(nft.Options) (Backend, error)) func(bool) (Backend, error) {
		return func(keep bool) (Backend, error) { return open(Options{Backend: backend, Keep: keep}, openNFT) }
	}
	return []kind{
		{"nftables", with(Auto, openNFT), "nftables", "this kernel has nf_tables", "iptables-nft"},
		{"iptables-nft", with(IPTables, openNFT), "iptables", "SIKKER_BACKEND=iptables", "iptables-nft"},
		{"iptables-legacy", with(Auto, noNFTables), "iptables", "this kernel has no nf_tables", "iptables-legacy"},
	}
}

// beside returns the kinds that may have run on the same host as k, which either has nf_tables or
// not.
func (k kind) beside() []kind {
	return slices.DeleteFunc(kinds(), func(o kind) bool {
		return o.info != k.info && (o.name == "iptables-legacy" || k.name == "iptables-legacy")
	})
}

// each runs a test against every backend, each on its own host.
func each(t *testing.T, test func(h *host)) {
	t.Helper()
	t.Parallel()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, k)
			// The kernel keeps the legacy tables once they have been listed, so they exist from the
			// start.
			for _, p := range []string{"iptables-legacy", "ip6tables-legacy"} {
				h.Run(p, "--table", "raw", "--list-rules")
			}
			test(h)
		})
	}
}

// host is a server behind a backend.
type host struct {
	*nettest.Host
	kind
	t      *testing.T
	fw     Backend // nil before start
	counts bool    // the kernel returns the element count of an nftables set
}

func newHost(t *testing.T, k kind) *host {
	t.Helper()
	return &host{Host: nettest.NewHost(t), t: t, kind: k, counts: nettest.CountsElements(t)}
}

// start opens the backend.
func (h *host) start() {
	h.t.Helper()
	var err error
	h.Do(func() { h.fw, err = h.open(true) })
	if err != nil {
		h.t.Fatalf("open: %v", err)
	}
	fw := h.fw
	h.t.Cleanup(func() { h.Do(func() { _ = fw.Remove() }); _ = fw.Close() })
}

func wanted(block, allow blocklist.Blocklist) ruleset.Ruleset {
	return ruleset.Ruleset{Block: block, Allow: allow, LogGroup: 100, LogRate: 10_000}
}

func (h *host) apply(block, allow blocklist.Blocklist) ruleset.Evidence {
	h.t.Helper()
	var e ruleset.Evidence
	var err error
	h.Do(func() { e, err = h.fw.Apply(h.t.Context(), wanted(block, allow)) })
	if err != nil {
		h.t.Fatalf("apply: %v", err)
	}
	counted := h.info == "iptables" || h.counts
	if e.Entries() != block.Len() || e.Sampled == 0 && block.Len() > 0 || e.Counted != counted {
		h.t.Fatalf("evidence %+v for %d entries, counted: want %v", e, block.Len(), counted)
	}
	return e
}

func (h *host) counters() ruleset.Counters {
	h.t.Helper()
	var n ruleset.Counters
	var err error
	h.Do(func() { n, err = h.fw.Counters() })
	if err != nil {
		h.t.Fatalf("counters: %v", err)
	}
	return n
}

// remove removes the rules. With -short, on an emulated processor, one Remove may end before it is
// complete, because the iptables programs have fifteen seconds.
func (h *host) remove() {
	h.t.Helper()
	var err error
	for range 10 {
		h.Do(func() { err = h.fw.Remove() })
		if !testing.Short() || !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	if err != nil {
		h.t.Fatalf("remove: %v", err)
	}
}

// snapshot returns the whole firewall configuration of the host, without counters and times.
func (h *host) snapshot() string {
	h.t.Helper()
	var b strings.Builder
	for _, c := range [][]string{
		{"iptables-legacy-save"},
		{"ip6tables-legacy-save"},
		{"iptables-nft-save"},
		{"ip6tables-nft-save"},
		{"ipset", "save"},
		{"nft", "list", "ruleset"},
	} {
		fmt.Fprintf(&b, "$ %s\n%s", strings.Join(c, " "), h.Run(c[0], c[1:]...))
	}
	text := regexp.MustCompile(`(?m)^# (Generated|Completed).*\n`).ReplaceAllString(b.String(), "")
	// A program writes this to standard error, at any place of a long output.
	text = regexp.MustCompile(`# Warning: iptables-legacy tables present, .*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`\[\d+:\d+\]`).ReplaceAllString(text, "[-]")
	return regexp.MustCompile(`counter packets \d+ bytes \d+`).ReplaceAllString(text, "counter")
}

// others returns the parts of a snapshot that do not belong to the agent.
func others(snapshot string) string {
	text := regexp.MustCompile(`(?ms)^table inet sikkerguard .*?^}\n`).ReplaceAllString(snapshot, "")
	text = regexp.MustCompile(`(?ms)^\tchain SIKKERGUARD(-[A-Z]+)? \{.*?^\t}\n`).ReplaceAllString(text, "")
	own := regexp.MustCompile(`(?m)^(|# Warning: table .*|.*-j SIKKERGUARD|.*jump SIKKERGUARD|` +
		`.*:SIKKERGUARD(-[A-Z]+)? .*|.*-A SIKKERGUARD(-[A-Z]+)? .*|\S+ sikkerguard-\S+ .*)\n`)
	return own.ReplaceAllString(text, "")
}

// same fails the test if the firewall configuration differs from want.
func (h *host) same(when, want string) {
	h.t.Helper()
	if diff := cmp.Diff(want, h.snapshot()); diff != "" {
		h.t.Errorf("%s: the host's firewall changed (-want +got):\n%s", when, diff)
	}
}

// noLeftovers fails the test if an object exists that Apply makes temporarily.
func (h *host) noLeftovers(when string) {
	h.t.Helper()
	text := h.Run("nft", "list", "ruleset") + h.Run("ipset", "list", "-n") + h.Run("iptables-legacy-save")
	for _, left := range []string{"_grown", "-next", "-both", "-probe", "-PROBE"} {
		if strings.Contains(text, left) {
			h.t.Errorf("%s: %s is left behind:\n%s", when, left, text)
		}
	}
}

func list(ss ...string) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, s := range ss {
		if a, err := netip.ParseAddr(s); err == nil {
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return blocklist.New(ps)
}

func hosts(as []netip.Addr) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, a := range as {
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	return blocklist.New(ps)
}

// random returns n different addresses from 50.0.0.0 to 119.255.255.255.
func random(n int, seed uint64) []netip.Prefix {
	rng := rand.New(rand.NewPCG(seed, 1))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		raw := [4]byte{byte(50 + rng.IntN(70)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
		ps[i] = netip.PrefixFrom(netip.AddrFrom4(raw), 32)
	}
	return ps
}

// big returns about n entries: 80% IPv4 addresses, 10% IPv6 addresses, the rest /24, /20, /48 and
// /52 networks.
func big(n int) blocklist.Blocklist {
	rng := rand.New(rand.NewPCG(uint64(n), 5))
	ps := random(n*80/100, uint64(n))
	v6 := func(length int) netip.Prefix {
		var raw [16]byte
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		raw[0], raw[1] = 0x2a, raw[1]&0x0f
		return netip.PrefixFrom(netip.AddrFrom16(raw), length).Masked()
	}
	for range n * 10 / 100 {
		ps = append(ps, v6(128))
	}
	for range n * 8 / 100 {
		raw := [4]byte{byte(160 + rng.IntN(50)), byte(rng.Uint32()), byte(rng.Uint32())}
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4(raw), 24))
	}
	for range n * 1 / 200 {
		raw := [4]byte{byte(212 + rng.IntN(8)), byte(rng.Uint32()), byte(rng.Uint32()) & 0xf0}
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4(raw), 20), v6(48), v6(52))
	}
	return blocklist.New(ps)
}

// sample returns n listed sources, without duplicates, and n unlisted ones.
func sample(l blocklist.Blocklist, n int) (listed, unlisted []netip.Addr) {
	rng := rand.New(rand.NewPCG(7, 7))
	all := l.Prefixes()
	for range n {
		listed = append(listed, all[rng.IntN(len(all))].Addr())
	}
	for len(unlisted) < n {
		raw := [4]byte{byte(11 + rng.IntN(88)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
		a := netip.AddrFrom4(raw)
		if !l.Contains(a) {
			unlisted = append(unlisted, a)
		}
	}
	slices.SortFunc(listed, netip.Addr.Compare)
	return slices.Compact(listed), unlisted
}

// scaled returns n, or a tenth of it with -short, as on an emulated processor.
func scaled(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// realList returns 120,430 addresses from a published list of attackers. A clone of the repository
// does not have the list, and skips the test.
func realList(tb testing.TB) []netip.Prefix {
	tb.Helper()
	raw, err := os.ReadFile("../../../shared/blocklists/ipsum-level1.txt")
	if os.IsNotExist(err) {
		tb.Skip("the published list is not in the repository, and not beside it")
	}
	if err != nil {
		tb.Fatal(err)
	}
	var ps []netip.Prefix
	for line := range strings.Lines(string(raw)) {
		a := netip.MustParseAddr(strings.TrimSpace(line))
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	if len(ps) != 120_430 {
		tb.Fatalf("%d addresses, want 120430", len(ps))
	}
	return ps
}
