package iptables

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// TestSetsAreRenewed checks when a set of keys is swapped with an empty one: early if it has many
// keys, and in any case before the observer forgets the kind of an idle key.
func TestSetsAreRenewed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		keys  int
		after time.Duration
		want  bool
	}{
		"OK empty":            {0, 24 * time.Hour, false},
		"OK a key":            {1, 19 * time.Minute, false},
		"OK an old key":       {1, 20 * time.Minute, true},
		"OK many keys":        {renewKeys + 1, 9 * time.Minute, false},
		"OK many old keys":    {renewKeys + 1, 10 * time.Minute, true},
		"OK more than half":   {hitSetSize/2 + 1, time.Second, true},
		"OK half of its size": {hitSetSize / 2, time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			v := hitValues{packets: map[ruleset.HitKey]uint64{}, renewed: now.Add(-tt.after)}
			for i := range tt.keys {
				a := netip.AddrFrom4([4]byte{5, byte(i >> 16), byte(i >> 8), byte(i)})
				v.packets[ruleset.HitKey{Source: a, Class: ruleset.Knock}] = 1
			}
			if got := v.due(now); got != tt.want {
				t.Errorf("%d keys after %v: %t", tt.keys, tt.after, got)
			}
		})
	}
}
