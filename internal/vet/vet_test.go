package vet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// entries returns the entries of a list, separated by spaces.
func entries(v vet.Verdict) string {
	var ss []string
	for p := range v.List.All() {
		ss = append(ss, p.String())
	}
	return strings.Join(ss, " ")
}

// addresses returns n valid lines.
func addresses(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "203.%d.%d.%d\n", i>>16&0xff, i>>8&0xff, i&0xff)
	}
	return b.String()
}

func TestVet(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in, want           string
		lines, repeated, special int
	}{
		{
			name: "OK addresses and networks of both families",
			in:   "203.0.113.9\n198.51.100.0/24\n2001:db8::9\n2001:db8:1::/48\n",
			want: "198.51.100.0/24 203.0.113.9/32 2001:db8::9/128 2001:db8:1::/48", lines: 4,
		},
		{
			name: "OK comments, blanks, CRLF, byte order mark, no newline at the end",
			in: "\ufeff# list\r\n\r\n 203.0.113.9 # why\r\n;x\n\t203.0.113.10;y\n// z\n203.0.113.12//w\n#" +
				strings.Repeat("x", 5000) + "\n203.0.113.11",
			want: "203.0.113.9/32 203.0.113.10/32 203.0.113.11/32 203.0.113.12/32", lines: 4,
		},
		{
			name: "OK duplicates and overlaps", in: "203.0.113.9\n203.0.113.0/24\n203.0.113.9\n",
			want: "203.0.113.0/24", lines: 3, repeated: 2,
		},
		{
			name: "OK mapped", in: "::ffff:203.0.113.9\n::ffff:198.51.100.0/120\n",
			want: "198.51.100.0/24 203.0.113.9/32", lines: 2,
		},
		{name: "OK host bits", in: "203.0.113.9/24\n", want: "203.0.113.0/24", lines: 1},
		{
			name: "OK special-purpose space removed",
			in:   "10.1.2.3\n127.0.0.1\n::1\nfe80::1\n203.0.113.9\n100.0.0.0/8\n",
			want: "100.0.0.0/10 100.128.0.0/9 203.0.113.9/32", lines: 6, special: 5,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for name, r := range map[string]io.Reader{
				"at once":     strings.NewReader(tt.in),
				"byte a read": iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				v, err := vet.Vet(r, vet.Options{})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if diff := cmp.Diff(tt.want, entries(v)); diff != "" {
					t.Errorf("%s: entries (-want +got):\n%s", name, diff)
				}
				if v.Lines != tt.lines || v.Repeated != tt.repeated || v.Special != tt.special || v.Bad != 0 {
					t.Errorf("%s: lines, repeated, special, bad: got %d %d %d %d, want %d %d %d 0",
						name, v.Lines, v.Repeated, v.Special, v.Bad, tt.lines, tt.repeated, tt.special)
				}
			}
		})
	}
}

func TestVetRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		guard    vet.Guard
		reason   string
	}{
		{"bad empty", "", vet.GuardEmpty, "0 lines"},
		{"bad only comments", "# nothing\n\n", vet.GuardEmpty, "0 lines"},
		{"bad only special-purpose", "10.0.0.1\n192.168.0.0/16\n", vet.GuardEmpty, "2 lines"},
		{
			"bad HTML", "<!DOCTYPE html>\n<html><body>502</body></html>\n", vet.GuardMalformed,
			`this is not a list (2 of 2 lines are not addresses; an error page?); the first: line 1`,
		},
		{"bad JSON", `{"error": "maintenance"}`, vet.GuardMalformed, `line 1: "{\"error\": \"maintenance\"}"`},
		{
			"bad 2 of 101 lines", addresses(99) + "x\ny\n", vet.GuardMalformed,
			`2 of 101 lines are not addresses; an error page?); the first: line 100: "x"`,
		},
		{"bad one line without an end", strings.Repeat("A", 1<<20), vet.GuardMalformed, "is longer than"},
		{"bad zone", "fe80::1%eth0\n", vet.GuardMalformed, "zone"},
		{"bad leading zeroes", "203.000.113.009\n", vet.GuardMalformed, "neither an address"},
		{"bad terminal escapes", "\x1b[2J203.0.113.9\n", vet.GuardMalformed, `"\x1b[2J203.0.113.9"`},
		{"bad everything", "0.0.0.0/0\n", vet.GuardWidth, "0.0.0.0/0"},
		{"bad IPv4 wider than /8", "62.0.0.0/7\n", vet.GuardWidth, "62.0.0.0/7"},
		{"bad IPv6 wider than /16", "2000::/15\n", vet.GuardWidth, "2000::/15"},
		{"bad all of IPv6", "::/0\n", vet.GuardWidth, "/16 for IPv6"},
		{"bad more than a tenth of the Internet", wide(23), vet.GuardCoverage, "10% of the public"},
		{"bad all of IPv4, mapped", "::ffff:0:0/96\n", vet.GuardWidth, "0.0.0.0/0"},
		{"bad all of IPv4 in halves, mapped", "::ffff:0:0/97\n::ffff:128.0.0.0/97\n", vet.GuardWidth, "0.0.0.0/1"},
		{"bad all of IPv4 by NAT64", "64:ff9b::/96\n", vet.GuardWidth, "64:ff9b::/96"},
		{"bad a network around NAT64", "64:ff9b::/64\n", vet.GuardWidth, "64:ff9b::/64"},
		{
			"bad all of IPv4 by NAT64, in parts", parts("64:ff9b::%d.0.0.0/104\n", 1, 224), vet.GuardCoverage,
			"public IPv4",
		},
		{"bad NAT64 for local use", "64:ff9b:1::/48\n", vet.GuardEmpty, "1 line and"},
		{
			"bad NAT64 for local use, in parts", parts("64:ff9b:1::%d.0.0.0/104\n", 1, 224), vet.GuardCoverage,
			"public IPv4",
		},
		{"bad all of IPv4 by 6to4", "2002::/16\n", vet.GuardWidth, "2002::/16"},
		{"bad all of IPv4 by 6to4, in parts", parts("2002:%02x00::/24\n", 1, 224), vet.GuardCoverage, "public IPv4"},
		{
			"bad all of IPv6 in use", parts("2%03x::/16\n", 0x400, 0x400+116), vet.GuardCoverage,
			"of the IPv6 addresses in use; the limit is 10%",
		},
		{
			"bad more than a tenth of the IPv6 in use", parts("2%03x::/16\n", 0x400, 0x400+12), vet.GuardCoverage,
			"10% of the IPv6",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := vet.Vet(strings.NewReader(tt.in), vet.Options{})
			var r *vet.RefusalError
			if !errors.As(err, &r) {
				t.Fatalf("got %v and entries %q, want a refusal", err, entries(v))
			}
			if tt.guard == vet.GuardWidth && tt.in == "0.0.0.0/0\n" {
				tt.reason = "/8 for IPv4" // the order of the parts does not matter
			}
			if r.Guard != tt.guard || !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("got %q, want the %s guard and %q", r, tt.guard, tt.reason)
			}
			if v.List.Len() != 0 {
				t.Errorf("a refused list has entries: %q", entries(v))
			}
		})
	}
}

// parts returns a line of that format for each number from first to end, exclusive.
func parts(format string, first, end int) string {
	var b strings.Builder
	for i := first; i < end; i++ {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// wide returns n networks of /8.
func wide(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d.0.0.0/8\n", 32+i)
	}
	return b.String()
}

func TestVetAccepts(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"OK 1 of 100 lines malformed": addresses(99) + "x\n",
		"OK just under a tenth":       wide(22),
		"OK /8 and /16":               "62.0.0.0/8\n2001::/16\n",
		"OK /7 that is half private":  "10.0.0.0/7\n",
		"OK a tenth of IPv6":          parts("2%03x::/16\n", 0x400, 0x400+11),
		"OK NAT64 and 6to4":           "64:ff9b::8.8.8.8\n64:ff9b::9.0.0.0/104\n2002:808:808::/48\n",
	} {
		if _, err := vet.Vet(strings.NewReader(in), vet.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVetSize vets lists of several sizes against a baseline of a hundred entries.
func TestVetSize(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		entries int
		o       vet.Options
		guard   vet.Guard // empty: accepted
	}{
		{"OK the first list", 5000, vet.Options{}, ""},
		{"OK twice as many", 200, vet.Options{Baseline: 100}, ""},
		{"bad more than twice as many", 201, vet.Options{Baseline: 100}, vet.GuardGrowth},
		{"bad more than twice as many again", 201, vet.Options{Baseline: 100, Shrunk: 49}, vet.GuardGrowth},
		{"bad grown after a refused shrunk list", 500, vet.Options{Baseline: 100, Shrunk: 20}, vet.GuardGrowth},
		{"OK more than twice as many, confirmed", 201, vet.Options{Baseline: 100, Grown: 201}, ""},
		{"OK tier changed, confirmed by another pull", 3500, vet.Options{Baseline: 50, Grown: 3400}, ""},
		{"bad grown again by more than twice", 403, vet.Options{Baseline: 100, Grown: 201}, vet.GuardGrowth},
		{"OK returns to the size of the last days", 5000, vet.Options{Baseline: 20, Largest: 5000}, ""},
		{"bad beyond the size of the last days", 10001, vet.Options{Baseline: 20, Largest: 5000}, vet.GuardGrowth},
		{"OK as small as the list before, after a larger one", 20, vet.Options{Baseline: 20, Largest: 5000}, ""},
		{"OK the first list, larger than Largest", 5000, vet.Options{Largest: 20}, ""},
		{"OK more than twice as many, overruled", 201, vet.Options{Baseline: 100, Overrule: true}, ""},
		{"OK half as many", 50, vet.Options{Baseline: 100}, ""},
		{"bad less than half as many", 49, vet.Options{Baseline: 100}, vet.GuardShrink},
		{"OK less than half as many, confirmed", 49, vet.Options{Baseline: 100, Shrunk: 49}, ""},
		{"OK confirmed by a list of about that size", 25, vet.Options{Baseline: 100, Shrunk: 49}, ""},
		{"bad shrunk again by more than half", 24, vet.Options{Baseline: 100, Shrunk: 49}, vet.GuardShrink},
		{"OK less than half as many, overruled", 49, vet.Options{Baseline: 100, Overrule: true}, ""},
		{"bad empty, confirmed", 0, vet.Options{Baseline: 100, Shrunk: 49}, vet.GuardEmpty},
		{"OK empty, overruled", 0, vet.Options{Baseline: 100, Overrule: true}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := vet.Vet(strings.NewReader(addresses(tt.entries)), tt.o)
			var r *vet.RefusalError
			switch errors.As(err, &r); {
			case tt.guard == "" && (err != nil || v.List.Len() != tt.entries):
				t.Errorf("got %d entries, %v; want %d", v.List.Len(), err, tt.entries)
			case tt.guard != "" && (r == nil || r.Guard != tt.guard || v.List.Len() != 0):
				t.Errorf("got %d entries, %v; want the %s guard", v.List.Len(), err, tt.guard)
			}
		})
	}
}

// TestSizeRefusalText checks the text of a refusal for the size.
func TestSizeRefusalText(t *testing.T) {
	t.Parallel()
	const (
		grown  = "a list more than twice as long is enforced once a second pull confirms it"
		shrunk = "a list less than half as long is enforced once a second pull confirms it"
	)
	for _, tt := range []struct {
		entries int
		o       vet.Options
		want    string
	}{
		{5000, vet.Options{Baseline: 3}, "5000 entries, 3 before: " + grown},
		{5000, vet.Options{Baseline: 20, Largest: 30}, "5000 entries, 30 at most in the last days: " + grown},
		{1, vet.Options{Baseline: 3}, "1 entry, 3 before: " + shrunk},
	} {
		_, err := vet.Vet(strings.NewReader(addresses(tt.entries)), tt.o)
		if r, ok := errors.AsType[*vet.RefusalError](err); !ok || r.Reason != tt.want {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

// TestVetWideEntryIsNoGrowth vets one entry that becomes many around special-purpose space.
func TestVetWideEntryIsNoGrowth(t *testing.T) {
	t.Parallel()
	v, err := vet.Vet(strings.NewReader("192.0.0.0/8\n"), vet.Options{Baseline: 2})
	if parts := len(v.List.Prefixes()); err != nil || v.List.Len() != 1 || parts < 10 {
		t.Errorf("got %d entries in %d parts, %v", v.List.Len(), parts, err)
	}
}

// TestVetOverruled checks that a body that is not a list cannot be overruled.
func TestVetOverruled(t *testing.T) {
	t.Parallel()
	for in, ok := range map[string]bool{"62.0.0.0/7\n": true, "<html>\n": false, wide(30): true} {
		v, err := vet.Vet(strings.NewReader(in), vet.Options{Overrule: true})
		var r *vet.RefusalError
		if errors.As(err, &r) && r.Overrulable() || (err == nil) != ok || (v.List.Len() > 0) != ok {
			t.Errorf("%.20q: %d entries, %v; want accepted: %v", in, v.List.Len(), err, ok)
		}
	}
}

// TestVastIsNeverAccepted checks that a list that would block a large part of the Internet is not
// accepted, and that the text does not advise to accept it.
func TestVastIsNeverAccepted(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"203.0.113.9\n0.0.0.0/0\n", "0.0.0.0/1\n", "128.0.0.0/1\n", "0.0.0.0/1\n128.0.0.0/1\n", "64.0.0.0/2\n",
		wide(80), "::/0\n", "2000::/3\n", "2a00::/11\n",
	} {
		for _, o := range []vet.Options{{}, {Overrule: true}} {
			v, err := vet.Vet(strings.NewReader(in), o)
			var r *vet.RefusalError
			if !errors.As(err, &r) || r.Overrulable() || r.List.Len()+v.List.Len() != 0 {
				t.Errorf("%.30q, %+v: %d entries, %v", in, o, v.List.Len(), err)
				continue
			}
			r.Aside = "list 1234" // must not add the advice
			if strings.Contains(err.Error(), "--accept") {
				t.Errorf("%.30q: the text advises to accept it: %v", in, err)
			}
		}
	}
}

// TestRefusalHasList checks that a refusal that the operator can overrule contains the list, and
// names it once it was set aside.
func TestRefusalHasList(t *testing.T) {
	t.Parallel()
	_, err := vet.Vet(strings.NewReader(addresses(9)), vet.Options{Baseline: 4})
	var r *vet.RefusalError
	if !errors.As(err, &r) || r.List.Len() != 9 || r.Entries != 9 {
		t.Fatalf("got %+v", err)
	}
	r.Aside = "list 1234 of 9 entries"
	const want = "set aside as list 1234 of 9 entries; if it is right, `sikkerguard pull --accept`"
	if !strings.Contains(err.Error(), want) {
		t.Errorf("the advice is missing: %v", err)
	}
}

func TestVetTooManyEntries(t *testing.T) {
	t.Parallel()
	_, err := vet.Vet(&generator{n: vet.MaxEntries + 1}, vet.Options{Overrule: true})
	var r *vet.RefusalError
	if !errors.As(err, &r) || r.Guard != vet.GuardEntries {
		t.Errorf("got %v, want the %s guard", err, vet.GuardEntries)
	}
}

// TestDecodingAllocatesNothing checks that a longer list takes no more allocations, except for the
// chunks of 8,192 entries that hold it.
func TestDecodingAllocatesNothing(t *testing.T) { // not parallel: it measures allocations
	const short, long = 2_000, 40_000
	forms := map[string]func(n int) string{
		"addresses": addresses,
		"IPv6 and comments": func(n int) string {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, "2a00:%x::%x # host %d\r\n", i>>8, 1+i&0xff, i)
			}
			return b.String()
		},
		"networks": func(n int) string {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, "62.%d.%d.%d/29\n", i>>13, i>>5&0xff, i&31<<3)
			}
			return b.String()
		},
	}
	for name, form := range forms {
		for reader, read := range map[string]func(io.Reader) (vet.Verdict, error){
			"Vet":    func(r io.Reader) (vet.Verdict, error) { return vet.Vet(r, vet.Options{}) },
			"Custom": vet.Custom,
		} {
			count := func(text string, lines int) float64 {
				return testing.AllocsPerRun(3, func() {
					if v, err := read(strings.NewReader(text)); err != nil || v.Lines != lines {
						t.Fatalf("%d lines, %v", v.Lines, err)
					}
				})
			}
			few, many := count(form(short), short), count(form(long), long)
			if many > few+long/8192*4 {
				t.Errorf("%s, %s: %v allocations for %d lines and %v for %d", reader, name, few, short, many, long)
			}
		}
		utf16 := "\xff\xfe" + strings.Join(strings.Split(form(short), ""), "\x00") + "\x00"
		if n := testing.AllocsPerRun(3, func() { _, _ = vet.Custom(strings.NewReader(utf16)) }); n > 300 {
			t.Errorf("%s: %v allocations for %d lines of UTF-16", name, n, short)
		}
	}
}

// TestVetReadError checks that a truncated list is an error and not a shorter list.
func TestVetReadError(t *testing.T) {
	t.Parallel()
	want := errors.New("cut short")
	for _, in := range []string{addresses(1000), "203.0.113.9\n203.0.1", strings.Repeat("A", 1<<16)} {
		_, err := vet.Vet(io.MultiReader(strings.NewReader(in), iotest.ErrReader(want)), vet.Options{})
		if !errors.Is(err, want) {
			t.Errorf("after %d bytes: got %v, want %v", len(in), err, want)
		}
	}
}

// TestRealList vets 120,430 real addresses. A clone of the repository does not have that list, and
// skips the test.
func TestRealList(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../../shared/blocklists/ipsum-level1.txt")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the published list is not in the repository, and not beside it")
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := vet.Vet(bytes.NewReader(raw), vet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if v.Lines != 120_430 || v.Bad != 0 || v.List.Len()+v.Repeated+v.Special != 120_430 {
		t.Errorf("lines %d, bad %d, entries %d, repeated %d, special %d: want 120430 in all and none bad",
			v.Lines, v.Bad, v.List.Len(), v.Repeated, v.Special)
	}
}

// FuzzVet checks, for any input, that an accepted list contains no special-purpose and no too wide
// entry, that its entries come from lines, and that a refusal comes without a list.
func FuzzVet(f *testing.F) {
	f.Add([]byte("203.0.113.9\n2001:db8::/32\n10.0.0.0/7\n"))
	f.Add([]byte("0.0.0.0/0\n::/0\n::ffff:0.0.0.0/95\n"))
	f.Add([]byte("<html>\r\n\x00"))
	f.Add([]byte("203.0.113.0/24\n62.0.0.0/8\n2001:db8::/32\n"))
	f.Add([]byte("64:ff9b::/96\n64:ff9b:1::8.8.8.8\n64:ff9b:1:a00:0:100::/104\n2002::/16\n::ffff:0:0/97"))
	f.Add([]byte("\xff\xfe1\x00.\x001\x00.\x001\x00.\x001\x00\n\x00#\x00"))
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		allow := blocklist.New([]netip.Prefix{
			netip.MustParsePrefix("203.0.113.9/32"), netip.MustParsePrefix("62.0.0.0/9"),
			netip.MustParsePrefix("2001:db8::/48"),
		})
		read := func(r io.Reader) (vet.Verdict, error) { return vet.Vet(r, vet.Options{}) }
		for name, read := range map[string]func(io.Reader) (vet.Verdict, error){"Vet": read, "Custom": vet.Custom} {
			v, err := read(bytes.NewReader(raw))
			if err != nil && v.List.Len() != 0 {
				t.Fatalf("%s: an error and %d entries", name, v.List.Len())
			}
			if rest, cut := v.List.Blockable(); cut != 0 || !rest.Equal(v.List) {
				t.Fatalf("%s: %d entries are special-purpose", name, cut)
			}
			if v4, v6 := v.List.Coverage(); v4 > 0.25 || v6 > 0.25 {
				t.Fatalf("%s: it covers %v of IPv4 and %v of IPv6", name, v4, v6)
			}
			if v.Bad > v.Lines || v.List.Len() > 0 && v.Bad == v.Lines ||
				name == "Custom" && err == nil && 2*v.Bad > v.Lines {
				t.Fatalf("%s: %d entries of %d lines, %d bad", name, v.List.Len(), v.Lines, v.Bad)
			}
			for p := range v.List.Without(allow).Overlapping(allow) {
				t.Fatalf("%s: %v is allowlisted", name, p)
			}
			if name == "Custom" {
				continue
			}
			if err == nil && v.List.Len() == 0 || v.Bad*100 > v.Lines {
				t.Fatalf("accepted: %d entries, %d of %d lines bad", v.List.Len(), v.Bad, v.Lines)
			}
			for p := range v.List.All() {
				least := map[bool]int{true: 8, false: 16}[p.Addr().Is4()]
				if v4, ok := blocklist.Embedded(p); p.Bits() < least || ok && v4.Bits() < 8 {
					t.Fatalf("%v is too wide", p)
				}
			}
		}
	})
}

// generator is a list of n random addresses. It is made while it is read, so that a benchmark does
// not store it.
type generator struct {
	n    int
	rng  *rand.Rand
	rest []byte
}

func (g *generator) Read(p []byte) (int, error) {
	if g.rng == nil {
		g.rng = rand.New(rand.NewPCG(1, 2))
	}
	for len(g.rest) < len(p) && g.n > 0 {
		g.n--
		raw := [4]byte{byte(11 + g.rng.IntN(80)), byte(g.rng.Uint32()), byte(g.rng.Uint32()), byte(g.rng.Uint32())}
		a := netip.AddrFrom4(raw)
		g.rest = append(a.AppendTo(g.rest), '\n')
	}
	if len(g.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, g.rest)
	g.rest = append(g.rest[:0], g.rest[n:]...)
	return n, nil
}

// BenchmarkVet also reports the highest resident memory of the whole process so far, in MiB. To
// read it, run one size at a time (go test -bench BenchmarkVet/500000).
func BenchmarkVet(b *testing.B) {
	for _, n := range []int{5_000, 50_000, 500_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v, err := vet.Vet(&generator{n: n}, vet.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if v.Lines != n || v.List.Len()+v.Repeated+v.Special != n {
					b.Fatalf("%d lines, %d entries, %d repeated, %d special, want %d lines",
						v.Lines, v.List.Len(), v.Repeated, v.Special, n)
				}
			}
			var ru unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/line")
			b.ReportMetric(float64(ru.Maxrss)/1024, "peak-MiB")
		})
	}
}

// TestEmptyRefusalText checks that the refusal of an empty list names the consequence of accepting
// it: less protection.
func TestEmptyRefusalText(t *testing.T) {
	t.Parallel()
	_, err := vet.Vet(strings.NewReader("# none\n"), vet.Options{})
	const want = "`sikkerguard pull --accept` enforces it, and then no entry of the API's list is blocked"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}
