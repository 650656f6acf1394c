package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// samples is the number of elements of a set to look up. They are spread evenly, and the first
	// and the last are among them.
	samples = 16
	// changedSamples is the number of added elements of a set to look up, and of deleted ones.
	changedSamples = 256
)

// lookup is the question to the kernel whether an element is in a set, and the right answer.
type lookup struct {
	set     string
	element netip.Prefix
	in      bool
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
	var lookups []lookup
	for _, spec := range specs {
		step, i := max(1, (spec.count-1)/(samples-1)), 0
		for p := range spec.elements() {
			if i%step == 0 || i == spec.count-1 {
				lookups = append(lookups, lookup{spec.name, p, true})
			}
			i++
		}
		c := d[spec.name]
		for _, p := range spread(c.added, changedSamples) {
			lookups = append(lookups, lookup{spec.name, p, true})
		}
		for _, p := range spread(c.gone, changedSamples) {
			// An address is also in the set if a network there contains it.
			if _, within := spec.list.Covering(p.Addr()); !within || p.Bits() < spec.family.width {
				lookups = append(lookups, lookup{spec.name, p, false})
			}
		}
	}
	if len(lookups) == 0 {
		return 0, nil
	}
	var text strings.Builder
	for _, l := range lookups {
		fmt.Fprintf(&text, "test %s %v\n", l.set, l.element)
	}
	// ipset answers on standard error and continues after a negative answer.
	stdout, stderr, err := f.run.run(ctx, askTime, script(text.String()+"quit\n"), f.ipset, "-")
	if err != nil {
		return 0, fmt.Errorf("look up elements: %w", err)
	}
	answers, found := parseAnswers(stdout+"\n"+stderr), 0
	for _, l := range lookups {
		in, ok := answers[lookup{l.set, l.element, true}], answers[lookup{l.set, l.element, l.in}]
		switch {
		case !ok && in:
			return found, mismatch("set %s has an element that was deleted: %v", l.set, l.element)
		case !ok && l.in:
			return found, mismatch("set %s lacks a sampled element: %v", l.set, l.element)
		case !ok:
			return found, mismatch("set %s: ipset did not answer whether %v is an element", l.set, l.element)
		case l.in:
			found++
		}
	}
	return found, nil
}

// parseAnswers returns the answers in the output of ipset: "Warning: 1.2.3.0/24 is in set x.".
func parseAnswers(out string) map[lookup]bool {
	answers := map[lookup]bool{}
	for line := range strings.Lines(out) {
		head, set, in := strings.Cut(strings.TrimSpace(line), " is in set ")
		if !in {
			head, set, _ = strings.Cut(strings.TrimSpace(line), " is NOT in set ")
		}
		words := strings.Fields(head)
		if set == "" || len(words) == 0 {
			continue
		}
		if p, err := blocklist.Parse(words[len(words)-1]); err == nil {
			answers[lookup{strings.TrimSuffix(set, "."), p, in}] = true
		}
	}
	return answers
}
