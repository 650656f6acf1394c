package host

import (
	"net/netip"
	"testing"
)

// TestChangedSaysWhat: a change of a resolver is not told as one of the host's addresses.
func TestChangedSaysWhat(t *testing.T) {
	t.Parallel()
	before := survey{}
	before.addAddrs(kindHost, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	for _, tt := range []struct {
		kinds []kind
		want  string
	}{
		{nil, ""},
		{[]kind{kindHost}, "Addresses or routes of the host changed"},
		{[]kind{kindGateway}, "Addresses or routes of the host changed"},
		{[]kind{kindResolver}, "Resolvers of the host changed"},
		{[]kind{kindAPI}, "Addresses of the API or of a proxy changed"},
		{[]kind{kindProxy, kindResolver}, "Resolvers of the host changed; Addresses of the API or of a proxy changed"},
	} {
		now := survey{}
		now.addAddrs(kindHost, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
		for _, k := range tt.kinds {
			now.addAddrs(k, []netip.Addr{netip.MustParseAddr("192.0.2.9")})
		}
		if got := now.whitelist().Changed(before.whitelist()); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.kinds, got, tt.want)
		}
		if got := before.whitelist().Changed(now.whitelist()); got != tt.want {
			t.Errorf("%v, away again: got %q, want %q", tt.kinds, got, tt.want)
		}
	}
}
