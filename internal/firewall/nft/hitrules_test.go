package nft

import (
	"testing"

	"github.com/google/nftables/expr"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// TestKeysAreAddedWithCounters checks that each rule that adds a key names its counter: Linux 5.10
// takes none from the definition of the set, and would count no packet of the key.
func TestKeysAreAddedWithCounters(t *testing.T) {
	t.Parallel()
	counting := map[string]bool{}
	for _, s := range allHitSets() {
		counting[s.name] = s.counts()
	}
	added := 0
	for _, r := range rules(nil, nil, ruleset.Ruleset{LogGroup: 100, LogRate: 10_000}, true) {
		for _, e := range r.exprs {
			d, ok := e.(*expr.Dynset)
			if !ok || !counting[d.SetName] {
				continue
			}
			added++
			if len(d.Exprs) != 1 {
				t.Errorf("%q adds keys without counters", r.text)
			} else if _, ok := d.Exprs[0].(*expr.Counter); !ok {
				t.Errorf("%q adds keys with %T", r.text, d.Exprs[0])
			}
		}
	}
	if added == 0 {
		t.Error("no rule adds keys")
	}
}
