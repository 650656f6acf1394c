package host

import (
	"net/netip"
	"testing"
)

// TestChanged checks that a change is attributed to the right source, for example not to the host's
// addresses if a resolver changed.
func TestChanged(t *testing.T) {
	t.Parallel()
	before := builder{}
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
		after := builder{}
		after.addAddrs(kindHost, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
		for _, k := range tt.kinds {
			after.addAddrs(k, []netip.Addr{netip.MustParseAddr("192.0.2.9")})
		}
		if got := after.whitelist().Changed(before.whitelist()); got != tt.want {
			t.Errorf("%v added: got %q, want %q", tt.kinds, got, tt.want)
		}
		if got := before.whitelist().Changed(after.whitelist()); got != tt.want {
			t.Errorf("%v removed: got %q, want %q", tt.kinds, got, tt.want)
		}
	}
}
