package nft

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// active is the state of the kernel from which the next change starts.
type active struct {
	enforced bool                // the kernel has rules of the agent
	changed  bool                // the current Apply has changed the rules or the sets
	sets     []setPlan           // sets that the rules look up
	list     blocklist.Blocklist // list in those sets; empty if a dead agent filled them
	rules    []rule              // rules of the last change
	held     map[string]int      // upper bound of elements by kernel set name; absent: unknown
	// exact means that sets and rules are all that the kernel has, element by element, so that the
	// next change can be a difference. It is false during a change, after one that failed, after a
	// verification that failed, and while a dead agent's rules are active.
	exact   bool
	rebuilt bool // the current Apply has replaced the rules
	// unsure is the ruleset of the last change if the kernel's answer to it was lost: the kernel may
	// have its rules and sets, or those before.
	unsure *ruleset.Ruleset
	// mixed means that the kernel refused to repeat the change of unsure: the live sets may hold list or
	// another one, so that elements which move to another set are not known.
	mixed bool
	// altered holds the elements that the current Apply has deleted from and added to live sets, by
	// name of the set.
	altered map[string]delta
}

// looksUp reports whether the rules look up the kernel's set of s.
func (a *active) looksUp(s setPlan) bool {
	return slices.ContainsFunc(a.sets, func(l setPlan) bool { return l.kernel == s.kernel })
}

// record records that the kernel has rules for list, and that they look up these sets.
func (a *active) record(sets []setPlan, list blocklist.Blocklist, rules []rule) {
	a.enforced, a.exact, a.unsure, a.mixed = true, true, nil, false
	a.sets, a.list, a.rules = sets, list, rules
}

// relook sets the live sets to those that the kernel's rules look up, after an answer was lost. next
// are the sets of the change whose answer it was.
func (a *active) relook(l *layout, rules map[string][]string, next []setPlan) {
	known := slices.Concat(a.sets, next)
	a.sets = nil
	for _, name := range slices.Sorted(maps.Keys(l.sets)) {
		looked := slices.ContainsFunc(rules[baseChain], namesSet(name))
		for _, f := range families() {
			looked = looked || slices.ContainsFunc(rules[dropPrefix+f.name], namesSet(name))
		}
		i := slices.IndexFunc(known, func(s setPlan) bool { return s.kernel == name })
		if i < 0 {
			i = slices.IndexFunc(known, func(s setPlan) bool { return s.name == plainName(name) })
		}
		if looked && i >= 0 {
			s := known[i]
			s.kernel = name
			a.sets = append(a.sets, s)
		}
	}
}

// namesSet returns a function that reports whether an encoded rule names a set. No name of a set ends
// with another one.
func namesSet(name string) func(rule string) bool {
	return func(rule string) bool { return strings.Contains(rule, name+"\x00") }
}

// looksAlike reports whether the kernel's rules are rules, and look up these sets.
func (a *active) looksAlike(sets []setPlan, rules []rule) bool {
	return slices.EqualFunc(a.sets, sets, func(x, y setPlan) bool { return x.kernel == y.kernel }) &&
		slices.EqualFunc(a.rules, rules, func(x, y rule) bool { return x.chain == y.chain && x.text == y.text })
}

// withOld returns the next sets, and after them the live sets that are not among them.
func (a *active) withOld(block, allow []setPlan) (allBlock, allAllow []setPlan) {
	next := slices.Concat(allow, block)
	for _, l := range a.sets {
		switch {
		case slices.ContainsFunc(next, func(s setPlan) bool { return s.kernel == l.kernel }):
		case l.accepts == nil && !l.gate:
			allow = append(allow, l)
		default:
			block = append(block, l)
		}
	}
	return block, allow
}

// alter records a difference that the kernel has taken.
func (a *active) alter(name string, d delta) {
	if a.altered == nil {
		a.altered = map[string]delta{}
	}
	all := a.altered[name]
	all.gone, all.added = append(all.gone, d.gone...), append(all.added, d.added...)
	a.altered[name] = all
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
	block   []setPlan                 // sets of ruleset.Block
	allow   []setPlan                 // sets of ruleset.Allow
	rules   map[string][]string       // rules by chain; nil before the first verification
	counts  map[string]uint32         // kernel's counts by set; nil before the first verification
	samples map[string][]netip.Prefix // elements to look up, by set; nil before the first verification
}
