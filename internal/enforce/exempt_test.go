package enforce

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// TestAnswerers: listed sources are found whose answers were dropped lately, those of DNS first,
// and a flood of others does not push those out.
func TestAnswerers(t *testing.T) {
	t.Parallel()
	var s repliers
	now := time.Now()
	hit := func(addr string, port uint16, kind sensor.Kind) sensor.Hit {
		return sensor.Hit{Key: sensor.Key{Source: netip.MustParseAddr(addr), Port: port, Kind: kind}}
	}
	s.add([]sensor.Hit{hit("198.51.100.9", 53, sensor.Answer)}, now.Add(-replyFresh-time.Second))
	s.add([]sensor.Hit{hit("198.51.100.1", 53, sensor.Answer), hit("198.51.100.2", 443, sensor.Answer)}, now.Add(-2*time.Second))
	s.add([]sensor.Hit{
		hit("198.51.100.3", 853, sensor.Answer), hit("198.51.100.4", 53, sensor.Attempt), hit("203.0.113.1", 53, sensor.Answer),
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

// probeless is a trial whose checks work while some addresses are let through.
func probeless(let *desired, needed ...string) trial {
	return trial{probe: func(context.Context, ...string) host.Checks {
		c := host.Check{Name: "API"}
		for _, addr := range needed {
			if !let.allow.Contains(netip.MustParseAddr(addr)) {
				c.Err = errors.New("not reached")
			}
		}
		if c.Err != nil {
			time.Sleep(time.Second)
		}
		return host.Checks{c}
	}}
}

// TestFewestCandidatesAreLetThrough: of many sources of answers, those that are needed are found
// quickly, and no others. If an outage makes all look needed, the search ends and none is.
func TestFewestCandidatesAreLetThrough(t *testing.T) {
	t.Parallel()
	candidates := make([]netip.Addr, maxCandidates)
	for i := range candidates {
		candidates[i] = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
	}
	for name, tt := range map[string]struct {
		needed []string
		err    error
	}{
		"the first":   {[]string{"198.51.100.0"}, nil},
		"the last":    {[]string{"198.51.100.63"}, nil},
		"three":       {[]string{"198.51.100.2", "198.51.100.31", "198.51.100.32"}, nil},
		"bad: outage": {[]string{"203.0.113.1"}, errManyNeeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, _ := logged(t)
				k := &letting{}
				a.backend.fw = k
				began := time.Now()
				got, err := a.fewestNeeded(t.Context(), probeless(&k.last, tt.needed...), desired{}, host.Checks{{Name: "API"}}, candidates)
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %v", err)
				}
				if took := time.Since(began); took > fewestMost+3*time.Second {
					t.Errorf("it took %v", took)
				}
				var want []netip.Addr
				for _, addr := range tt.needed {
					want = append(want, netip.MustParseAddr(addr))
				}
				if err == nil && !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		})
	}
}

// letting is a kernel that remembers the last rules.
type letting struct {
	stubborn

	last desired
}

func (l *letting) Apply(_ context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	l.last = desired{block: rs.Block, allow: rs.Allow}
	return ruleset.Evidence{}, nil
}
