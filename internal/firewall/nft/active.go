package nft

import (
	"slices"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// active is the state of the kernel from which the next change starts.
type active struct {
	enforced bool                // the kernel has rules of the agent
	changed  bool                // the current Apply has changed the rules or the sets
	sets     []setPlan           // sets that the rules look up
	list     blocklist.Blocklist // list in those sets; empty if a dead agent filled them
	held     map[string]int      // upper bound of elements by kernel set name; absent: unknown
}

// looksUp reports whether the rules look up the kernel's set of s.
func (a *active) looksUp(s setPlan) bool {
	return slices.ContainsFunc(a.sets, func(l setPlan) bool { return l.kernel == s.kernel })
}

// record records that the kernel has the rules for list, and that they look up these sets.
func (a *active) record(sets []setPlan, list blocklist.Blocklist) {
	a.enforced, a.changed = true, true
	a.sets, a.list = sets, list
}

// hold records the upper bounds of the elements of sets after a batch, or that they are unknown.
func (a *active) hold(bounds map[string]int, known bool) {
	for name, n := range bounds {
		if a.held[name] = n; n == deleted || !known {
			delete(a.held, name)
		}
	}
}

// boundCounts sets the count of each set that the kernel does not count to an upper bound: the
// number of elements put into it, or the size of a set that a dead agent filled.
func (a *active) boundCounts(l *layout) {
	for name, k := range l.sets {
		if k.counted {
			continue
		}
		k.count = k.size
		if n, ok := a.held[name]; ok {
			k.count = uint32(n)
		}
		l.sets[name] = k
	}
}

// applied is the last ruleset that was applied, with the kernel's answers to its verification.
type applied struct {
	ruleset ruleset.Ruleset
	block   []setPlan           // sets of ruleset.Block
	allow   []setPlan           // sets of ruleset.Allow
	rules   map[string][]string // rules by chain; nil before the first verification
	counts  map[string]uint32   // kernel's counts by set; nil before the first verification
}
