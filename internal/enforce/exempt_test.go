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
)

// probeless is a trial whose checks work while the needed addresses are let through.
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

// TestFewestCandidatesAreLetThrough: of many repliers, only the needed ones are found, and quickly.
// If an outage makes all appear needed, the search ends and exempts none.
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
				a, _ := newEnforcer(t)
				k := &letting{}
				a.backend.fw = k
				began := time.Now()
				got, err := a.fewestNeeded(t.Context(), probeless(&k.last, tt.needed...), desired{},
					host.Checks{{Name: "API"}}, candidates)
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

// letting is a kernel that stores the last rules.
type letting struct {
	stubborn

	last desired
}

func (l *letting) Apply(_ context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	l.last = desired{block: rs.Block, allow: rs.Allow}
	return ruleset.Evidence{}, nil
}
