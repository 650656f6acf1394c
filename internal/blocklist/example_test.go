package blocklist_test

import (
	"fmt"
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// A list is canonical: host bits are removed, IPv4-mapped addresses become IPv4, and entries that a
// wider entry covers are dropped.
func ExampleNew() {
	list := blocklist.New([]netip.Prefix{
		netip.MustParsePrefix("203.0.113.9/24"),
		netip.MustParsePrefix("203.0.113.7/32"),
		netip.MustParsePrefix("::ffff:198.51.100.7/128"),
	})
	for p := range list.All() {
		fmt.Println(p)
	}
	// Output:
	// 198.51.100.7/32
	// 203.0.113.0/24
}

// An allowed address is cut out of the network that contains it. The rest of the network stays.
func ExampleBlocklist_Without() {
	list := blocklist.New([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/30")})
	allowed := blocklist.New([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")})
	fmt.Println(list.Without(allowed).Prefixes())
	// Output: [203.0.113.0/32 203.0.113.2/31]
}

// Covering returns the entry that blocks an address.
func ExampleBlocklist_Covering() {
	list := blocklist.New([]netip.Prefix{netip.MustParsePrefix("45.9.20.0/22")})
	fmt.Println(list.Covering(netip.MustParseAddr("45.9.21.77")))
	// Output: 45.9.20.0/22 true
}
