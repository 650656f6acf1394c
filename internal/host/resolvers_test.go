package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseNameservers(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range maxNameservers + 5 {
		fmt.Fprintf(&many, "nameserver 192.0.2.%d\n", i)
	}
	for _, tt := range []struct {
		name, text string
		want       []netip.Addr
	}{
		{"OK both families", "nameserver 192.0.2.1\nnameserver 2001:db8::1\n", addrs("192.0.2.1", "2001:db8::1")},
		{"OK no newline at the end", "nameserver 192.0.2.1", addrs("192.0.2.1")},
		{"OK tabs, carriage returns, indentation", "\tnameserver\t192.0.2.1 \r\n", addrs("192.0.2.1")},
		{"OK zone", "nameserver fe80::1%eth0\n", addrs("fe80::1")},
		{"OK mapped", "nameserver ::ffff:192.0.2.1\n", addrs("192.0.2.1")},
		{"OK trailing text", "nameserver 192.0.2.1 # home\n", addrs("192.0.2.1")},
		{"OK repeated", "nameserver 192.0.2.1\nnameserver 192.0.2.1\n", addrs("192.0.2.1")},
		{"OK among other keywords", "search lan\nnameserver 192.0.2.1\noptions edns0\n", addrs("192.0.2.1")},
		{"OK stub", "nameserver 127.0.0.53\n", addrs("127.0.0.53")},
		{"bad empty", "", nil},
		{"bad comments", "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n#nameserver 192.0.2.3\n", nil},
		{"bad keyword", "nameservers 192.0.2.1\nNAMESERVER 192.0.2.1\nnameserver192.0.2.1\n", nil},
		{
			"bad address",
			"nameserver 192.0.2\nnameserver 192.0.2.256\nnameserver ns.example.org\nnameserver 192.0.2.1/24\n",
			nil,
		},
		{"bad no address", "nameserver\nnameserver \n", nil},
		{"bad bytes", "nameserver \x00\xff\n\x00nameserver 192.0.2.1\n", nil},
		{"bad too many", many.String(), parseNameservers([]byte(many.String()))[:maxNameservers]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := parseNameservers([]byte(tt.text))
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzParseNameservers checks that every input gives a bounded number of plain addresses, each once
// and each from a nameserver line, and that a file of only these lines gives the same result.
func FuzzParseNameservers(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nnameserver fe80::1%eth0\r\n; x\nnameserver ::ffff:192.0.2.9 y\n"))
	f.Add([]byte("search example.org\n\nnameserver 127.0.0.53"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := parseNameservers(text)
		if len(got) > maxNameservers {
			t.Fatalf("%d addresses, want at most %d", len(got), maxNameservers)
		}
		var again strings.Builder
		for i, a := range got {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				t.Errorf("%q is not canonical", a)
			}
			if slices.Contains(got[:i], a) {
				t.Errorf("%s is a duplicate", a)
			}
			fmt.Fprintf(&again, "nameserver %s\n", a)
		}
		if n := strings.Count(string(text), "nameserver"); n < len(got) {
			t.Errorf("%d addresses of %d lines", len(got), n)
		}
		if second := parseNameservers([]byte(again.String())); !slices.Equal(got, second) {
			t.Errorf("read back: got %v, want %v", second, got)
		}
		// Lines that are no nameserver lines change nothing, wherever they are.
		around := slices.Concat([]byte("options ndots:2\n"), text, []byte("\n# nameserver 192.0.2.77\n"))
		if other := parseNameservers(around); !slices.Equal(got, other) {
			t.Errorf("with other lines around: got %v, want %v", other, got)
		}
	})
}
