package vet_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/vet"
)

func TestCustom(t *testing.T) {
	t.Parallel()
	const list = "# mine\n203.0.113.9\nbad host\n\n62.0.0.0/8 # on purpose\n0.0.0.0/0\n10.0.0.1\n203.0.113.999\n"
	v, err := vet.Custom(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("62.0.0.0/8 203.0.113.9/32", entries(v)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	var bad []string
	for _, e := range v.Malformed {
		bad = append(bad, e.Error())
	}
	want := []string{
		`line 3: "bad host" is neither an address nor a network like 192.0.2.0/24`,
		`line 6: "0.0.0.0/0" is wider than the widest network that may be blocked, /8 for IPv4 and /16 for IPv6`,
		`line 8: "203.0.113.999" is neither an address nor a network like 192.0.2.0/24`,
	}
	if diff := cmp.Diff(want, bad); diff != "" {
		t.Errorf("malformed (-want +got):\n%s", diff)
	}
	if v.Special != 1 || v.Bad != 3 {
		t.Errorf("special, bad: got %d, %d, want 1, 3", v.Special, v.Bad)
	}
}

// TestCustomRefuses checks which files are refused, so that their previous entries stay enforced.
func TestCustomRefuses(t *testing.T) {
	t.Parallel()
	const tooWide = "wider than the widest network that may be blocked"
	tests := []struct {
		name, in string
		guard    vet.Guard
		reason   string
	}{
		{
			"bad empty", "", vet.GuardEmpty,
			"the file is empty; to empty the list, write a file with only a comment, such as # none",
		},
		{"bad blank", "\n \r\n", vet.GuardEmpty, "the file is empty"},
		{"bad blank UTF-16", "\xff\xfe\n\x00", vet.GuardEmpty, "the file is empty"},
		{
			"bad page", "<!DOCTYPE html>\n<html>502</html>\n", vet.GuardMalformed,
			`2 of 2 lines are not addresses that may be blocked; the first: line 1: "<!DOCTYPE html>"`,
		},
		{"bad page after a part of the list", "203.0.113.9\n<html>\n</html>\n", vet.GuardMalformed, "2 of 3 lines"},
		{
			"bad without a good line", "# mine\nhost.example\n", vet.GuardMalformed,
			"1 of 1 line is not an address that may be blocked; the first: ",
		},
		{
			"bad special-purpose only", "10.0.0.1\n", vet.GuardEmpty,
			"the file has 1 line and no address that may be blocked",
		},
		{"bad everything", "0.0.0.0/0\n", vet.GuardMalformed, tooWide},
		{"bad everything, mapped", "::ffff:0:0/96\n", vet.GuardMalformed, tooWide},
		{
			"bad everything in halves, mapped", "::ffff:0:0/97\n::ffff:128.0.0.0/97\n", vet.GuardMalformed,
			tooWide,
		},
		{"bad everything by NAT64", "64:ff9b::/96\n", vet.GuardMalformed, tooWide},
		{"bad everything by 6to4", "2002::/16\n", vet.GuardMalformed, tooWide},
		{
			"bad everything in 256 lines", parts("%d.0.0.0/8\n", 0, 256), vet.GuardCoverage,
			"it covers 100% of the public IPv4 addresses; the limit is 25%",
		},
		{
			"bad everything in 256 mapped lines", parts("::ffff:%d.0.0.0/104\n", 0, 256), vet.GuardCoverage,
			"the limit is 25%",
		},
		{
			"bad everything in 256 lines of NAT64", parts("64:ff9b::%d.0.0.0/104\n", 0, 256), vet.GuardCoverage,
			"the limit is 25%",
		},
		{
			"bad everything in lines of 6to4", parts("2002:%02x00::/24\n", 0, 256), vet.GuardCoverage,
			"the limit is 25%",
		},
		{
			"bad all of IPv6 in use", parts("2%03x::/16\n", 0x400, 0x400+116), vet.GuardCoverage,
			"100% of the IPv6 addresses in use",
		},
		{"bad binary", "\x7fELF\x02\x01\x01\x00\x00", vet.GuardMalformed, "it is not a text file"},
		{"bad zip", "PK\x03\x04\x14\x00", vet.GuardMalformed, "it is not a text file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := vet.Custom(strings.NewReader(tt.in))
			r, ok := errors.AsType[*vet.RefusalError](err)
			if !ok || v.List.Len() != 0 {
				t.Fatalf("got %v and entries %q, want a refusal", err, entries(v))
			}
			if r.Guard != tt.guard || !strings.Contains(r.Error(), tt.reason) {
				t.Errorf("got %q by %s, want the %s guard and %q", r, r.Guard, tt.guard, tt.reason)
			}
			if strings.Contains(r.Error(), "--accept") {
				t.Errorf("the text names a command that does not help: %v", r)
			}
		})
	}
}

// utf16Text returns s in UTF-16.
func utf16Text(order binary.AppendByteOrder, s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, u)
	}
	return string(b)
}

func gzipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCustomAccepts checks the forms that a file of the operator may have.
func TestCustomAccepts(t *testing.T) {
	t.Parallel()
	const list = "203.0.113.9 # é 😀\r\n// mine\r\n2001:db8::9\r\n"
	const want = "203.0.113.9/32 2001:db8::9/128"
	tests := []struct{ name, in, want string }{
		{"OK only a comment", "# none\n", ""},
		{"OK only a comment with slashes", "// none", ""},
		{"OK UTF-8", list, want},
		{"OK UTF-8 with a byte order mark", "\ufeff" + list, want},
		{"OK UTF-16, little-endian", utf16Text(binary.LittleEndian, "\ufeff"+list), want},
		{"OK UTF-16, big-endian", utf16Text(binary.BigEndian, "\ufeff"+list), want},
		{"OK UTF-16 without a mark", utf16Text(binary.LittleEndian, list), want},
		{"OK UTF-16, big-endian without a mark", utf16Text(binary.BigEndian, list), want},
		{
			"OK UTF-16 with an unpaired surrogate in a comment",
			utf16Text(binary.LittleEndian, "# ") + "\x00\xd8\n\x00" + utf16Text(binary.LittleEndian, list), want,
		},
		{"OK gzip", gzipped(t, list), want},
		{"OK gzip of UTF-16", gzipped(t, utf16Text(binary.LittleEndian, "\ufeff"+list)), want},
		{"OK a quarter of the Internet", parts("%d.0.0.0/8\n", 32, 32+55), "-"},
		{"OK a quarter of the IPv6 in use", parts("2%03x::/16\n", 0x400, 0x400+29), "-"},
		{"OK as many bad lines as good ones", "203.0.113.9\nhost.example\n", "203.0.113.9/32"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := vet.Custom(strings.NewReader(tt.in))
			if got := entries(v); err != nil || tt.want != "-" && got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestCustomCutShort checks that a truncated file gives neither another address nor a shorter list.
func TestCustomCutShort(t *testing.T) {
	t.Parallel()
	cut := utf16Text(binary.LittleEndian, "203.0.113.1\n203.0.113.45")
	if v, err := vet.Custom(strings.NewReader(cut[:len(cut)-1])); err != nil || entries(v) != "203.0.113.1/32" {
		t.Errorf("UTF-16 cut inside a character: got %q, %v", entries(v), err)
	}
	whole := gzipped(t, addresses(1000))
	for _, in := range []string{whole[:5], whole[:len(whole)/2], whole[:len(whole)-1], whole[:len(whole)-5] + "xxxxx"} {
		if v, err := vet.Custom(strings.NewReader(in)); err == nil || v.List.Len() > 0 {
			t.Errorf("%d bytes of %d: got %d entries, %v", len(in), len(whole), v.List.Len(), err)
		}
	}
}

// TestCustomCompressedIsCapped checks that a small compressed file cannot contain a text of any
// size.
func TestCustomCompressedIsCapped(t *testing.T) {
	t.Parallel()
	comments := strings.Repeat("#"+strings.Repeat("x", 4000)+"\n", 17_000)
	_, err := vet.Custom(strings.NewReader(gzipped(t, "203.0.113.9\n"+comments)))
	if err == nil || !strings.Contains(err.Error(), "64 MiB") {
		t.Errorf("got %v, want an error that names the limit", err)
	}
}
