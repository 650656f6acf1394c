package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

const (
	// samples is the number of elements of a set to look up. They are spread evenly, and the first
	// and the last are among them.
	samples = 16
	// changedSamples is the number of added elements of a set to look up, and of deleted ones.
	changedSamples = 256
)

// lookups are questions to the kernel about single elements of sets.
type lookups struct {
	lines   []string
	present map[string]int // number of elements that must be in a set, by its name
	absent  map[string]int // number of elements that must not
}

// ask adds the question whether an element is in a set.
func (l *lookups) ask(set string, p netip.Prefix, expected map[string]int) {
	l.lines = append(l.lines, fmt.Sprintf("test %s %v\n", set, p))
	expected[set]++
}

// spread returns at most n of the elements, evenly spread.
func spread(ps []netip.Prefix, n int) []netip.Prefix {
	step := max(1, (len(ps)+n-1)/n)
	var some []netip.Prefix
	for i := 0; i < len(ps); i += step {
		some = append(some, ps[i])
	}
	return some
}

// sample looks up some elements of each set, and some of the elements that d added and deleted, in
// one run of ipset. It returns the number of elements found.
func (f *Firewall) sample(ctx context.Context, specs []setSpec, d differences) (int, error) {
	l := lookups{present: map[string]int{}, absent: map[string]int{}}
	for _, spec := range specs {
		step, i := max(1, (spec.count-1)/(samples-1)), 0
		for p := range spec.elements() {
			if i%step == 0 || i == spec.count-1 {
				l.ask(spec.name, p, l.present)
			}
			i++
		}
		c := d[spec.name]
		for _, p := range spread(c.added, changedSamples) {
			l.ask(spec.name, p, l.present)
		}
		for _, p := range spread(c.gone, changedSamples) {
			// An address is also in the set if a network there contains it.
			if _, within := spec.list.Covering(p.Addr()); !within || p.Bits() < spec.family.width {
				l.ask(spec.name, p, l.absent)
			}
		}
	}
	if len(l.lines) == 0 {
		return 0, nil
	}
	// ipset answers on standard error and continues after a negative answer.
	stdout, stderr, err := f.run.run(ctx, askTime, script(strings.Join(l.lines, "")+"quit\n"), f.ipset, "-")
	if err != nil {
		return 0, fmt.Errorf("look up elements: %w", err)
	}
	n := 0
	for _, spec := range specs {
		found := strings.Count(stdout+stderr, " is in set "+spec.name+".\n")
		if found != l.present[spec.name] {
			return n, mismatch("set %s has %d of %d sampled elements", spec.name, found, l.present[spec.name])
		}
		missing := strings.Count(stdout+stderr, " is NOT in set "+spec.name+".\n")
		if missing != l.absent[spec.name] {
			return n, mismatch("set %s lacks %d of %d sampled elements that were deleted",
				spec.name, missing, l.absent[spec.name])
		}
		n += found
	}
	return n, nil
}
