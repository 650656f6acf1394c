package host

import (
	"net/netip"
	"testing"
)

// TestGained checks that Gained reports a new way to reach the API, after which the agent repeats a
// failed pull at once. Names that resolve to other addresses each time, and containers that start,
// do not count.
func TestGained(t *testing.T) {
	t.Parallel()
	whitelist := func(finds map[kind]string) Whitelist {
		var b builder
		b.addAddrs(kindHost, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
		for k, addr := range finds {
			b.addAddrs(k, []netip.Addr{netip.MustParseAddr(addr)})
		}
		return b.whitelist()
	}
	type finds = map[kind]string
	for name, tt := range map[string]struct {
		before, after finds
		want          bool
	}{
		"OK nothing":          {nil, nil, false},
		"OK lost":             {finds{kindHost: "198.51.100.1", kindAPI: "203.0.113.1"}, nil, false},
		"OK other API":        {finds{kindAPI: "203.0.113.1"}, finds{kindAPI: "203.0.113.2"}, false},
		"OK other proxy":      {finds{kindProxy: "203.0.113.1"}, finds{kindProxy: "203.0.113.2"}, false},
		"OK a container":      {nil, finds{kindHost: "fe80::1"}, false},
		"gained an API":       {nil, finds{kindAPI: "203.0.113.1"}, true},
		"gained a proxy":      {nil, finds{kindProxy: "10.0.0.1"}, true},
		"gained an address":   {nil, finds{kindHost: "10.0.0.7"}, true},
		"gained a gateway":    {nil, finds{kindGateway: "203.0.113.1"}, true},
		"gained a resolver":   {finds{kindResolver: "9.9.9.9"}, finds{kindResolver: "1.1.1.1"}, true},
		"gained after a loss": {finds{kindHost: "10.0.0.7"}, finds{kindHost: "10.0.0.8"}, true},
	} {
		if got := whitelist(tt.after).Gained(whitelist(tt.before)); got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
