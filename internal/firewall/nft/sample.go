package nft

import (
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// samples is the number of elements that are looked up in each set: evenly spread, with the first
// and the last.
const samples = 16

// samplesOf returns the samples of each set, by its name. list is the list of the sets that hold
// entries. Its entries are read once, because reading them for each set takes a few milliseconds
// each at 500,000 entries.
func samplesOf(sets []setPlan, list blocklist.Blocklist) map[string][]netip.Prefix {
	all := map[string]*sampler{}
	byLength := map[int]*[129]*sampler{32: {}, 128: {}} // by width of the family and length of the entry
	for _, s := range sets {
		p := &sampler{set: s, step: max(1, (s.count-1)/(samples-1))}
		all[s.name] = p
		if s.accepts == nil {
			for e := range s.elements {
				p.pass(e)
			}
			continue
		}
		for length := range s.family.width + 1 {
			if s.accepts(length) {
				byLength[s.family.width][length] = p
			}
		}
	}
	for p := range list.V4() {
		byLength[32][p.Bits()].passEntry(p)
	}
	for p := range list.V6() {
		byLength[128][p.Bits()].passEntry(p)
	}
	picked := map[string][]netip.Prefix{}
	for name, p := range all {
		picked[name] = p.picked
	}
	return picked
}

// sampler picks the samples of one set, whose elements pass by in ascending order.
type sampler struct {
	set    setPlan
	step   int // every step-th element is a sample
	passed int // elements that have passed
	picked []netip.Prefix
}

// pass takes the next element.
func (p *sampler) pass(e netip.Prefix) {
	if p.passed%p.step == 0 || p.passed == p.set.count-1 {
		p.picked = append(p.picked, e)
	}
	p.passed++
}

// passEntry takes the elements of the next entry.
func (p *sampler) passEntry(entry netip.Prefix) {
	n := factor(entry.Bits(), p.set.elementLength())
	if past := p.passed + n; p.passed%p.step != 0 && p.passed/p.step == (past-1)/p.step && past != p.set.count {
		p.passed = past // none of them is a sample
		return
	}
	expand(entry, p.set.elementLength(), func(e netip.Prefix) bool {
		p.pass(e)
		return true
	})
}
