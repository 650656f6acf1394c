package blocklist_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"203.0.113.9":             "203.0.113.9/32",
		"203.0.113.9/24":          "203.0.113.0/24",
		"2001:db8::9":             "2001:db8::9/128",
		"2001:DB8::9/32":          "2001:db8::/32",
		"::ffff:203.0.113.9":      "203.0.113.9/32",
		"::ffff:203.0.113.0/120":  "203.0.113.0/24",
		"::ffff:0:0/96":           "0.0.0.0/0",
		"::ffff:128.0.0.0/97":     "128.0.0.0/1",
		"::ffff:0.0.0.0/95":       "::fffe:0:0/95",
		"0.0.0.0/0":               "0.0.0.0/0",
		"64:ff9b::203.0.113.9":    "64:ff9b::cb00:7109/128",
		"64:ff9b::203.0.113.9/96": "64:ff9b::/96",
	} {
		p, err := blocklist.Parse(in)
		if err != nil || p.String() != want {
			t.Errorf("%s: got %v, %v, want %s", in, p, err, want)
		}
	}
	for in, want := range map[string]error{
		"": blocklist.ErrNoPrefix, "host.example": blocklist.ErrNoPrefix, "203.0.113.009": blocklist.ErrNoPrefix,
		"203.0.113.9/33": blocklist.ErrNoPrefix, "203.0.113.9/": blocklist.ErrNoPrefix,
		"203.0.113.9/-1": blocklist.ErrNoPrefix, "203.0.113.9/08": blocklist.ErrNoPrefix,
		"２０３.0.113.9": blocklist.ErrNoPrefix, " 203.0.113.9": blocklist.ErrNoPrefix,
		"fe80::1%eth0": blocklist.ErrZone, "fe80::%eth0/64": blocklist.ErrZone,
	} {
		if p, err := blocklist.Parse(in); !errors.Is(err, want) {
			t.Errorf("%q: got %v, %v, want %v", in, p, err, want)
		}
	}
}

func TestSingle(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"203.0.113.9": "203.0.113.9/32", "2001:db8::9": "2001:db8::9/128",
		"::ffff:203.0.113.9": "203.0.113.9/32", "fe80::1%eth0": "fe80::1/128",
	} {
		if p := blocklist.Single(netip.MustParseAddr(in)); p.String() != want {
			t.Errorf("%s: got %v, want %s", in, p, want)
		}
	}
	if p := blocklist.Single(netip.Addr{}); p.IsValid() {
		t.Errorf("invalid address: got %v", p)
	}
}

// TestParseBytesAllocatesNothing: a list has up to a million lines.
func TestParseBytesAllocatesNothing(t *testing.T) { // not parallel: it measures allocations
	for _, text := range []string{
		"203.0.113.9", "203.0.113.0/24", "2001:db8::9", "2001:db8::/32", "::ffff:203.0.113.9", "host.example",
		"203.0.113.9/33", "fe80::1%eth0", "2001:db8::x",
	} {
		b := []byte(text)
		if n := testing.AllocsPerRun(100, func() { _, _ = blocklist.ParseBytes(b) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

// parseByNetip parses s with package netip.
func parseByNetip(s string) (netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return netip.Prefix{}, blocklist.ErrZone
	}
	p, err := netip.ParsePrefix(s)
	if !strings.Contains(s, "/") {
		var a netip.Addr
		a, err = netip.ParseAddr(s)
		p = blocklist.Single(a)
	}
	if err != nil {
		return netip.Prefix{}, blocklist.ErrNoPrefix
	}
	p, _ = blocklist.Canonical(p)
	return p, nil
}

// FuzzParse checks that Parse accepts what package netip accepts, and that a parsed prefix is
// canonical, contains the parsed address, and has a text that parses into the same prefix.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"203.0.113.9", "::ffff:0:0/96", "fe80::1%eth0", "2002::/16", "1.2.3.4/008", "::ffff:1.2.3.4/97",
		"::ffff:0:0/1", "", ":", "::", ":::", "1::", "::1:", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "1::2::3",
		"1:2:3:4:5:6:7:8:9", "::1:2:3:4:5:6:7", "1:2:3:4:5:6:1.2.3.4", "::1.2.3.4:5", "1:2:3:4:5:6:7:1.2.3.4",
		"12345::", "1.2.3", "1.2.3.4.5", "1..2.3", ".1.2.3", "1.2.3.", "256.1.1.1", "01.2.3.4", "0.0.0.0/00", "1.2.3.4/",
		"1.2.3.4/+1", "::/129", "::/128", "::1/1/2", "a.b.c.d", "::g", "1:2:3:4:5:6:7::8", "/", "::.1.2.3", "::a1.2.3.4",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := blocklist.Parse(s)
		if want, wantErr := parseByNetip(s); p != want || !errors.Is(err, wantErr) {
			t.Fatalf("%q: got %v, %v, want %v, %v", s, p, err, want, wantErr)
		}
		if b, berr := blocklist.ParseBytes([]byte(s)); b != p || !errors.Is(berr, err) {
			t.Fatalf("%q: ParseBytes returned %v, %v, and Parse %v, %v", s, b, berr, p, err)
		}
		if err != nil {
			if p.IsValid() {
				t.Fatalf("%q: %v and %v", s, p, err)
			}
			return
		}
		if p != p.Masked() || p.Addr().Zone() != "" || p.Addr().Is4In6() && p.Bits() >= 96 {
			t.Fatalf("%q: %v is not canonical", s, p)
		}
		if again, err := blocklist.Parse(p.String()); err != nil || again != p {
			t.Fatalf("%q: %v is parsed as %v, %v", s, p, again, err)
		}
		text, _, _ := strings.Cut(s, "/")
		if a, err := netip.ParseAddr(text); err != nil || !p.Contains(a) && !p.Contains(a.Unmap()) {
			t.Fatalf("%q: %v does not contain its address", s, p)
		}
	})
}
