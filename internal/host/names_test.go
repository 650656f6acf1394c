package host

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestRecall checks that addresses of an earlier run, of the API and of the proxy, stay on the
// allowlist while names do not resolve. The first lookup that succeeds replaces them, and only that
// counts as gained.
func TestRecall(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	known := names{}
	h := testHost(Options{
		APIURL: mustURL(t, "https://api.example.org"), Resolver: known,
		Proxy: proxyAt(mustURL(t, "http://proxy.example.org:3128")), Root: t.TempDir(),
	}, kernel{})
	h.Recall(Names{At: now.Add(-time.Hour), Addrs: map[string][]netip.Addr{
		"api.example.org": addrs("203.0.113.1"), "proxy.example.org": addrs("203.0.113.2"),
		"other.example.org": addrs("203.0.113.3"),
	}}, now)
	has := func(w Whitelist, want ...string) {
		t.Helper()
		var got []string
		for _, p := range w.Prefixes() {
			if strings.HasPrefix(p.String(), "203.0.113.") {
				got = append(got, p.Addr().String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	has(h.Local(), "203.0.113.1", "203.0.113.2")
	before := h.Names(t.Context())
	has(before, "203.0.113.1", "203.0.113.2")
	if got := h.Resolved(now); len(got.Addrs) != 0 {
		t.Errorf("recalled addresses count as resolved: %v", got)
	}
	known["api.example.org"] = []string{"203.0.113.9", "203.0.113.8"}
	known["proxy.example.org"] = []string{"203.0.113.2"}
	after := h.Names(t.Context())
	has(after, "203.0.113.2", "203.0.113.8", "203.0.113.9")
	if !after.Gained(before) {
		t.Error("names that resolve do not count as gained, so no pull follows")
	}
	want := map[string][]netip.Addr{
		"api.example.org": addrs("203.0.113.8", "203.0.113.9"), "proxy.example.org": addrs("203.0.113.2"),
	}
	if diff := cmp.Diff(want, h.Resolved(now).Addrs, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("resolved (-want +got):\n%s", diff)
	}
	h.Recall(Names{At: now, Addrs: map[string][]netip.Addr{"api.example.org": addrs("203.0.113.1")}}, now)
	has(h.Local(), "203.0.113.2", "203.0.113.8", "203.0.113.9")
}

// TestRecallAge checks that old addresses are ignored, and that addresses of unknown age count.
func TestRecallAge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	for age, want := range map[time.Duration]int{
		time.Hour: 1, namesMaxAge: 1, namesMaxAge + time.Second: 0, -1000 * time.Hour: 1,
	} {
		api := mustURL(t, "https://api.example.org")
		h := testHost(Options{APIURL: api, Resolver: names{}, Root: t.TempDir(), Proxy: noProxy}, kernel{})
		saved := map[string][]netip.Addr{"api.example.org": addrs("203.0.113.1")}
		h.Recall(Names{At: now.Add(-age), Addrs: saved}, now)
		if got := h.Local().counts[kindAPI]; got != want {
			t.Errorf("age %v: %d addresses, want %d", age, got, want)
		}
	}
}

// TestNamesText checks that ParseNames reads the text of Append, with the most that Resolved may
// return.
func TestNamesText(t *testing.T) {
	t.Parallel()
	n := Names{At: time.Date(2026, 11, 26, 1, 2, 3, 0, time.UTC), Addrs: map[string][]netip.Addr{}}
	for _, name := range []string{"api.example.org", "proxy.example.org"} {
		for i := range maxAnswers {
			raw := netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ff00").As16()
			raw[15] = byte(i)
			n.Addrs[name] = append(n.Addrs[name], netip.AddrFrom16(raw))
		}
	}
	text, err := n.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseNames(text); err != nil || !got.At.Equal(n.At) || !got.Equal(n) {
		t.Errorf("got %v, %v, want %v", got, err, n)
	}
}

// TestParseNamesIsStrict checks that ParseNames accepts no text that Append did not make.
func TestParseNamesIsStrict(t *testing.T) {
	t.Parallel()
	const at = `"at":"2026-11-26T01:02:03Z"`
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"OK":                {`{"version":1,` + at + `,"names":{"a":["203.0.113.1"]}}` + "\n", true},
		"bad empty":         {``, false},
		"bad cut off":       {`{"version":1,` + at + `,"names":{"a":["203.0.113.1"`, false},
		"bad version":       {`{"version":2,` + at + `,"names":{"a":["203.0.113.1"]}}`, false},
		"bad time":          {`{"version":1,"names":{"a":["203.0.113.1"]}}`, false},
		"bad field":         {`{"version":1,` + at + `,"names":{},"x":1}`, false},
		"bad rest":          {`{"version":1,` + at + `,"names":{"a":["203.0.113.1"]}}{}`, false},
		"bad address":       {`{"version":1,` + at + `,"names":{"a":["203.0.113"]}}`, false},
		"bad network":       {`{"version":1,` + at + `,"names":{"a":["203.0.113.0/24"]}}`, false},
		"bad no address":    {`{"version":1,` + at + `,"names":{"a":[]}}`, false},
		"bad empty address": {`{"version":1,` + at + `,"names":{"a":[""]}}`, false},
		"bad mapped":        {`{"version":1,` + at + `,"names":{"a":["::ffff:203.0.113.1"]}}`, false},
		"bad loopback":      {`{"version":1,` + at + `,"names":{"a":["127.0.0.1"]}}`, false},
		"bad name":          {`{"version":1,` + at + `,"names":{"":["203.0.113.1"]}}`, false},
		"bad many names": {
			`{"version":1,` + at + `,"names":{"a":["203.0.113.1"],"b":["203.0.113.1"],` +
				`"c":["203.0.113.1"],"d":["203.0.113.1"],"e":["203.0.113.1"]}}`, false,
		},
		"bad many addresses": {
			`{"version":1,` + at + `,"names":{"a":["203.0.113.1"` +
				strings.Repeat(`,"203.0.113.1"`, maxAnswers) + `]}}`, false,
		},
		"bad size": {
			`{"version":1,` + at + `,"names":{"a":["203.0.113.1"]}}` + strings.Repeat(" ", maxNamesText), false,
		},
	} {
		n, err := ParseNames([]byte(tt.text))
		if (err == nil) != tt.ok || (len(n.Addrs) > 0) != tt.ok {
			t.Errorf("%s: got %v, %v", name, n, err)
		}
		if err != nil && !errors.Is(err, ErrNames) {
			t.Errorf("%s: got %v, want ErrNames", name, err)
		}
	}
}
