package enforce

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// TestRepliers: on returns the listed sources whose replies were recently dropped, those of DNS
// first. A flood of others does not displace those.
func TestRepliers(t *testing.T) {
	t.Parallel()
	var s repliers
	now := time.Now()
	hit := func(addr string, port uint16, kind sensor.Kind) sensor.Hit {
		return sensor.Hit{Key: sensor.Key{Source: netip.MustParseAddr(addr), Port: port, Kind: kind}}
	}
	s.add([]sensor.Hit{hit("198.51.100.9", 53, sensor.Answer)}, now.Add(-replyFresh-time.Second))
	s.add([]sensor.Hit{hit("198.51.100.1", 53, sensor.Answer), hit("198.51.100.2", 443, sensor.Answer)},
		now.Add(-2*time.Second))
	s.add([]sensor.Hit{
		hit("198.51.100.3", 853, sensor.Answer), hit("198.51.100.4", 53, sensor.Attempt),
		hit("203.0.113.1", 53, sensor.Answer),
	}, now.Add(-time.Second))
	list := listOf("198.51.100.0/24")
	want := []netip.Addr{
		netip.MustParseAddr("198.51.100.3"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"),
	}
	if got := s.on(list, now); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	flood := make([]sensor.Hit, 0, 2*maxRepliers)
	for i := range 2 * maxRepliers {
		addr := netip.AddrFrom4([4]byte{198, 51, byte(101 + i/256), byte(i)})
		flood = append(flood, hit(addr.String(), 443, sensor.Answer))
	}
	s.add(flood, now)
	if len(s.last) > maxRepliers {
		t.Errorf("%d sources are remembered", len(s.last))
	}
	got := s.on(listOf("198.51.0.0/16"), now)
	if len(got) != maxCandidates || !slices.Equal(got[:2], want[:2]) {
		t.Errorf("after a flood: got %v, want %d that begin with %v", got, maxCandidates, want[:2])
	}
}
