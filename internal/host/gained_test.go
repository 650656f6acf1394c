package host

import (
	"net/netip"
	"testing"
)

// TestGainedSomethingToReachTheAPIBy: a pull that failed is tried again at once if the host has gained
// something that it may reach the API by. Names that resolve to other addresses each time, and
// containers that start, are none.
func TestGainedSomethingToReachTheAPIBy(t *testing.T) {
	t.Parallel()
	look := func(finds map[kind]string) Whitelist {
		var s survey
		s.addAddrs(kindHost, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
		for k, addr := range finds {
			s.addAddrs(k, []netip.Addr{netip.MustParseAddr(addr)})
		}
		return s.whitelist()
	}
	for name, tt := range map[string]struct {
		before, now map[kind]string
		want        bool
	}{
		"OK nothing":          {nil, nil, false},
		"OK lost":             {map[kind]string{kindHost: "198.51.100.1", kindAPI: "203.0.113.1"}, nil, false},
		"OK other API":        {map[kind]string{kindAPI: "203.0.113.1"}, map[kind]string{kindAPI: "203.0.113.2"}, false},
		"OK other proxy":      {map[kind]string{kindProxy: "203.0.113.1"}, map[kind]string{kindProxy: "203.0.113.2"}, false},
		"OK a container":      {nil, map[kind]string{kindHost: "fe80::1"}, false},
		"gained an API":       {nil, map[kind]string{kindAPI: "203.0.113.1"}, true},
		"gained a proxy":      {nil, map[kind]string{kindProxy: "10.0.0.1"}, true},
		"gained an address":   {nil, map[kind]string{kindHost: "10.0.0.7"}, true},
		"gained a gateway":    {nil, map[kind]string{kindGateway: "203.0.113.1"}, true},
		"gained a resolver":   {map[kind]string{kindResolver: "9.9.9.9"}, map[kind]string{kindResolver: "1.1.1.1"}, true},
		"gained after a loss": {map[kind]string{kindHost: "10.0.0.7"}, map[kind]string{kindHost: "10.0.0.8"}, true},
	} {
		if got := look(tt.now).Gained(look(tt.before)); got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
