package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
)

var errNetlink = errors.New("netlink fails")

// names is a resolver that knows only these names.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	as, ok := n[host]
	if !ok {
		return nil, fmt.Errorf("lookup %s: no such host", host)
	}
	return addrs(as...), nil
}

// deaf is a resolver that never answers.
type deaf struct{}

func (deaf) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func addrs(ss ...string) []netip.Addr {
	var as []netip.Addr
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// root returns a directory with these files. A text that begins with "-> " makes a symbolic link.
func root(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func noProxy(*url.URL) (*url.URL, error) { return nil, nil }

func proxyAt(u *url.URL) func(*url.URL) (*url.URL, error) {
	return func(*url.URL) (*url.URL, error) { return u, nil }
}

// discover reads every source.
func (h *Host) discover(ctx context.Context) Whitelist {
	h.Local()
	return h.Names(ctx)
}

// testHost returns a Host whose kernel state is k.
func testHost(o Options, k kernel) *Host {
	if o.Proxy == nil {
		o.Proxy = noProxy
	}
	h := New(o)
	h.read = func() kernel { return k }
	return h
}

func messages(errs []error) []string {
	var ss []string
	for _, err := range errs {
		ss = append(ss, err.Error())
	}
	return ss
}

func TestDiscoverEverything(t *testing.T) {
	t.Parallel()
	h := testHost(Options{
		Allow:  prefixes("203.0.113.9/32", "203.0.113.77/24", "::ffff:203.0.113.9/128", "192.168.0.0/16"),
		APIURL: mustURL(t, "https://api.example.org/v1"),
		Root: root(t, map[string]string{
			"etc/resolv.conf":                 "nameserver 127.0.0.53\nnameserver 192.168.0.1\n",
			"run/systemd/resolve/resolv.conf": "nameserver 192.0.2.53\nnameserver fe80::53%eth0\n",
		}),
		Resolver: names{
			"api.example.org": {"198.51.100.1", "2001:db8::a"}, "proxy.example.org": {"198.51.100.9"},
		},
		Proxy: proxyAt(mustURL(t, "http://user:secret@proxy.example.org:3128")),
	}, kernel{
		gateways: addrs("192.168.0.1", "fe80::1%eth0", "192.168.0.1"),
		addresses: addrs("127.0.0.1", "::1", "192.168.0.10", "::ffff:192.168.0.11", "2001:db8::10",
			"0.0.0.0", "224.0.0.1"),
	})
	w := h.discover(t.Context())
	want := prefixes(
		"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.53/32", "192.168.0.0/16",
		"192.168.0.1/32", "192.168.0.10/32", "192.168.0.11/32", "198.51.100.1/32", "198.51.100.9/32",
		"203.0.113.0/24", "203.0.113.9/32",
		"::1/128", "2001:db8::a/128", "2001:db8::10/128", "fc00::/7", "fe80::/10", "fe80::1/128", "fe80::53/128",
	)
	if diff := cmp.Diff(want, w.Prefixes(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("prefixes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("Safety whitelist: 12 IPs + 8 CIDR ranges", w.String()); diff != "" {
		t.Errorf("first line (-want +got):\n%s", diff)
	}
	kinds := "gateways 2, resolvers 3, host addresses 3, LAN ranges 6, loopback 2, " +
		"API 2, proxy 1, SIKKER_WHITELIST 3"
	if diff := cmp.Diff(kinds, w.Kinds()); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string(nil), messages(w.Problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// TestDiscoverProblems makes one source after another fail. The finds of the others stay complete.
func TestDiscoverProblems(t *testing.T) {
	t.Parallel()
	conf := map[string]string{"etc/resolv.conf": "nameserver 192.0.2.53\n"}
	many := names{"api.example.org": nil}
	for i := range maxAnswers + 1 {
		many["api.example.org"] = append(many["api.example.org"], fmt.Sprintf("198.51.100.%d", i))
	}
	whole := kernel{gateways: addrs("192.0.2.1"), addresses: addrs("192.0.2.10")}
	for _, tt := range []struct {
		name    string
		o       Options
		files   map[string]string
		kernel  kernel
		kinds   string
		problem string // a part of the only one; empty: none
	}{
		{
			name: "OK no API, no resolv.conf", kernel: whole,
			kinds: "gateways 1, host addresses 1, LAN ranges 6, loopback 2",
		},
		{
			name: "OK the API is an address", kernel: whole, files: conf,
			o:     Options{APIURL: mustURL(t, "http://[2001:db8::a]:8443"), Resolver: deaf{}},
			kinds: "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2, API 1",
		},
		{
			name: "OK only the proxy resolves the API's name", kernel: whole, files: conf,
			o: Options{
				APIURL: mustURL(t, "https://api.example.org"), Resolver: names{},
				Proxy: proxyAt(mustURL(t, "http://198.51.100.9:3128")),
			},
			kinds: "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2, proxy 1",
		},
		{
			name: "bad name", kernel: whole, files: conf,
			o:       Options{APIURL: mustURL(t, "https://api.example.org"), Resolver: names{}},
			kinds:   "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "resolve the API's name: lookup api.example.org: no such host",
		},
		{
			name: "bad name without addresses", kernel: whole, files: conf,
			o:       Options{APIURL: mustURL(t, "https://api.example.org"), Resolver: names{"api.example.org": nil}},
			kinds:   "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "resolve the API's name: api.example.org: no address",
		},
		{
			name: "bad name with too many addresses", kernel: whole, files: conf,
			o:       Options{APIURL: mustURL(t, "https://api.example.org"), Resolver: many},
			kinds:   "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2, API 32",
			problem: "api.example.org has 33 addresses, only 32 are allowlisted",
		},
		{
			name: "bad proxy's name", kernel: whole, files: conf,
			o: Options{
				APIURL: mustURL(t, "https://api.example.org"), Resolver: names{},
				Proxy: proxyAt(mustURL(t, "http://proxy.example.org:3128")),
			},
			kinds:   "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "resolve the proxy's name: lookup proxy.example.org: no such host",
		},
		{
			name: "bad stub whose resolvers are unknown", kernel: whole,
			files:   map[string]string{"etc/resolv.conf": "nameserver 127.0.0.53\nnameserver 192.0.2.53\n"},
			kinds:   "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "mount that directory read-only, or add them to SIKKER_WHITELIST",
		},
		{
			name: "bad resolv.conf is a directory", kernel: whole,
			files:   map[string]string{"etc/resolv.conf/x": ""},
			kinds:   "gateways 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "not a regular file",
		},
		{
			name: "bad resolv.conf is too large", kernel: whole,
			files: map[string]string{
				"etc/resolv.conf": "nameserver 192.0.2.53\n" + strings.Repeat("#", maxConfSize-43) +
					"\nnameserver 192.0.2.230\n",
			},
			kinds:   "gateways 1, resolvers 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "more than 65536 bytes",
		},
		{
			name: "bad routes", files: conf,
			kernel:  kernel{addresses: addrs("192.0.2.10"), gatewaysErr: errNetlink},
			kinds:   "resolvers 1, host addresses 1, LAN ranges 6, loopback 2",
			problem: "netlink fails",
		},
		{
			name: "bad netlink", files: conf,
			kernel:  kernel{gatewaysErr: errNetlink, addressesErr: errNetlink},
			kinds:   "resolvers 1, LAN ranges 6, loopback 2",
			problem: "add its gateways and addresses to SIKKER_WHITELIST",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.o.Root = root(t, tt.files)
			w := testHost(tt.o, tt.kernel).discover(t.Context())
			if diff := cmp.Diff(tt.kinds, w.Kinds()); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
			got := strings.Join(messages(w.Problems), "\n")
			if (got == "") != (tt.problem == "") || !strings.Contains(got, tt.problem) || len(w.Problems) > 1 {
				t.Errorf("problems: got %q, want one with %q", got, tt.problem)
			}
		})
	}
}

// TestProxyPassword checks that the value of the proxy variable is not shown, because it may
// contain a password.
func TestProxyPassword(t *testing.T) {
	t.Parallel()
	h := testHost(Options{
		APIURL: mustURL(t, "https://192.0.2.80"), Root: t.TempDir(),
		Proxy: func(*url.URL) (*url.URL, error) {
			return nil, errors.New(`invalid proxy "http://user:secret@:x"`)
		},
	}, kernel{})
	w := h.discover(t.Context())
	got := messages(w.Problems)
	want := []string{"find the proxy for the API: the value of HTTPS_PROXY or HTTP_PROXY is not a URL; correct it"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// TestPlainHTTPBypassesProxy: the client sends a key over plain http to no proxy. So the host
// depends on the API itself, and a name that does not resolve is a problem.
func TestPlainHTTPBypassesProxy(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	api := mustURL(t, "http://"+l.Addr().String())
	proxy := proxyAt(mustURL(t, "http://127.0.0.2:9")) // no program listens there
	h := New(Options{APIURL: api, Proxy: proxy})
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	checks := h.Probe(t.Context(), "API "+api.Host)
	if len(checks) != 1 || checks[0].Err != nil || !h.AnsweredFrom(port) || h.AnsweredFrom(9) {
		t.Errorf("checks %v; AnsweredFrom: port %d %v, the proxy's %v",
			checks, port, h.AnsweredFrom(port), h.AnsweredFrom(9))
	}

	api = mustURL(t, "http://api.example.org")
	h = testHost(Options{APIURL: api, Resolver: names{}, Proxy: proxy, Root: t.TempDir()}, kernel{})
	w := h.discover(t.Context())
	if len(w.Problems) != 1 || !strings.Contains(w.Problems[0].Error(), "resolve the API's name") ||
		strings.Contains(w.Kinds(), "proxy") {
		t.Errorf("problems %v; %s", w.Problems, w.Kinds())
	}
}

// TestEarlierFindsStay checks that the finds of a source stay on the allowlist while it fails, and
// are replaced once it gives others.
func TestEarlierFindsStay(t *testing.T) {
	t.Parallel()
	known := names{"api.example.org": {"198.51.100.1"}}
	k := kernel{gateways: addrs("192.0.2.1"), addresses: addrs("192.0.2.10")}
	api := mustURL(t, "https://api.example.org")
	h := testHost(Options{APIURL: api, Resolver: known, Root: t.TempDir()}, k)
	h.read = func() kernel { return k }
	has := func(step string, want ...string) {
		t.Helper()
		w := h.discover(t.Context())
		want = append(want, "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
			"::1/128", "fc00::/7", "fe80::/10")
		all := distinct(prefixes(want...))
		if diff := cmp.Diff(all, w.Prefixes(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s: prefixes (-want +got):\n%s", step, diff)
		}
	}
	has("first", "192.0.2.1/32", "192.0.2.10/32", "198.51.100.1/32")
	delete(known, "api.example.org")
	k = kernel{gatewaysErr: errNetlink, addresses: addrs("192.0.2.11"), addressesErr: errNetlink}
	has("nothing works", "192.0.2.1/32", "192.0.2.10/32", "192.0.2.11/32", "198.51.100.1/32")
	has("still nothing", "192.0.2.1/32", "192.0.2.10/32", "192.0.2.11/32", "198.51.100.1/32")
	known["api.example.org"] = []string{"198.51.100.2"}
	k = kernel{gateways: addrs("192.0.2.2"), addresses: addrs("192.0.2.12")}
	has("all works", "192.0.2.2/32", "192.0.2.12/32", "198.51.100.2/32")
}

// TestLookupTimeout checks that Names waits for a resolver that never answers no longer than
// lookupTimeout.
func TestLookupTimeout(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := testHost(Options{APIURL: mustURL(t, "https://api.example.org"), Resolver: deaf{}, Root: dir}, kernel{})
		start := time.Now()
		w := h.discover(t.Context())
		if len(w.Problems) != 1 || !errors.Is(w.Problems[0], context.DeadlineExceeded) {
			t.Errorf("got problems %v, want one deadline exceeded", w.Problems)
		}
		if d := time.Since(start); d != lookupTimeout {
			t.Errorf("took %s, want %s", d, lookupTimeout)
		}
	})
}

// TestCompleteDump checks that a dump which the kernel reports as interrupted is repeated, until
// one is not or two in a row agree.
func TestCompleteDump(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		interrupted []int // content of each interrupted dump, 0 for none; a complete one contains 7
		then        error
		want        []int
		err         error
		dumps       int
	}{
		{name: "OK at once", want: []int{7}, dumps: 1},
		{name: "OK at last", interrupted: []int{1, 2, 3, 4}, want: []int{1, 2, 3, 4, 7}, dumps: dumpAttempts},
		{name: "OK two agree", interrupted: []int{1, 2, 2, 3}, want: []int{1, 2, 2}, dumps: 3},
		{name: "OK interrupted at the start", interrupted: []int{0}, want: []int{7}, dumps: 2},
		{
			name: "bad always interrupted", interrupted: []int{1, 2, 1, 2, 1, 2},
			want: []int{1, 2, 1, 2, 1}, err: netlink.ErrDumpInterrupted, dumps: dumpAttempts,
		},
		{
			name: "bad another error", interrupted: []int{1}, then: errNetlink,
			want: []int{1, 7}, err: errNetlink, dumps: 2,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dumps := 0
			got, err := completeDump(func() ([]int, error) {
				if dumps++; dumps <= len(tt.interrupted) {
					if tt.interrupted[dumps-1] == 0 {
						return nil, netlink.ErrDumpInterrupted
					}
					return []int{tt.interrupted[dumps-1]}, netlink.ErrDumpInterrupted
				}
				return []int{7}, tt.then
			}, strconv.Itoa)
			if !errors.Is(err, tt.err) || dumps != tt.dumps || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, %v after %d dumps, want %v, %v after %d",
					got, err, dumps, tt.want, tt.err, tt.dumps)
			}
		})
	}
}

func TestZeroWhitelist(t *testing.T) {
	t.Parallel()
	var w Whitelist
	got := fmt.Sprintf("%s\n%s\n%d %d %v", w, w.Kinds(), w.IPs(), w.Ranges(), w.Prefixes())
	if diff := cmp.Diff("Safety whitelist: 0 IPs + 0 CIDR ranges\nnothing\n0 0 []", got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
