package iptables

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// state is the kernel's table raw of one family.
type state struct {
	chain   bool     // our chain that blocks exists
	chains  []string // all chains of ours that exist
	rules   []string // of our chains, in the order of ownChains
	jumps   int      // from PREROUTING to our chain, without a condition
	first   bool     // the first rule of PREROUTING is such a jump
	dropped *counter // sum of the counters of our drop rules; nil if there are none
	foreign bool     // the table holds something of another program
}

// matches reports whether the kernel has the rules want and applies them first.
func (st state) matches(want []string) bool {
	return st.chain && st.first && st.jumps == 1 && slices.Equal(st.rules, want)
}

// parseState parses the output of iptables-save --counters for table raw.
func parseState(out string) state {
	var st state
	before := 0 // rules of PREROUTING so far
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, ":"); ok {
			st.declare(name)
			continue
		}
		counted, rule, ok := strings.Cut(line, "] ")
		if !ok || !strings.HasPrefix(counted, "[") || !strings.HasPrefix(rule, "-A ") {
			continue
		}
		switch in := chainOf(rule); {
		case slices.Contains(ownChains(), in):
			st.add(rule, counted)
		case rule == jump:
			st.jumps++
			st.first = st.first || before == 0
		case in == probeChain:
		default:
			st.foreign = true
		}
		if chainOf(rule) == "PREROUTING" {
			before++
		}
	}
	slices.SortStableFunc(st.rules, func(a, b string) int {
		return cmp.Compare(slices.Index(ownChains(), chainOf(a)), slices.Index(ownChains(), chainOf(b)))
	})
	return st
}

// chainOf returns the chain of a rule.
func chainOf(rule string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(rule, "-A "), " ")
	return name
}

// add adds a rule of one of our chains. An earlier version dropped in another chain.
func (st *state) add(rule, counted string) {
	st.rules = append(st.rules, rule)
	var c counter
	_, err := fmt.Sscanf(counted, "[%d:%d", &c.packets, &c.bytes)
	if err != nil || !strings.HasSuffix(rule, " "+dropTarget) {
		return
	}
	if st.dropped != nil {
		c = c.plus(*st.dropped)
	}
	st.dropped = &c
}

// declare adds a line with a chain and its policy: "PREROUTING ACCEPT [0:0]".
func (st *state) declare(text string) {
	words := strings.Fields(text)
	switch {
	case len(words) < 2:
	case slices.Contains(ownChains(), words[0]), words[0] == probeChain:
		st.chains = append(st.chains, words[0])
		st.chain = st.chain || words[0] == chain
	case words[1] != "ACCEPT": // the policy of another program's chain is "-"
		st.foreign = true
	}
}

// target returns the target of a rule, or the chain that it continues in.
func target(rule string) string {
	for _, option := range []string{" -j ", " -g "} {
		if _, t, ok := strings.Cut(rule, option); ok {
			name, _, _ := strings.Cut(t, " ")
			return name
		}
	}
	return ""
}

// edit returns the lines that turn the table into want. It keeps the drop rule if there is one, so
// that its count misses no packet. Otherwise it makes one, and the counter begins at from.
func (st state) edit(want, printed []string, from counter) (lines []string, rebuilt bool) {
	drops := slices.DeleteFunc(slices.Clone(st.rules), func(r string) bool {
		return chainOf(r) != dropChain && !strings.HasSuffix(r, " "+dropTarget)
	})
	rebuilt = !slices.Equal(drops, []string{dropRule})
	if rebuilt || !slices.Equal(st.rules, printed) {
		lines = st.rewrite(want, rebuilt, from)
	}
	if !st.first || st.jumps != 1 {
		for range st.jumps {
			lines = append(lines, "-D PREROUTING -j "+chain)
		}
		lines = append(lines, "-I PREROUTING 1 -j "+chain)
	}
	return lines, rebuilt
}

// rewrite returns the lines that replace the rules by want, without the drop rule unless all is
// set.
func (st state) rewrite(want []string, all bool, from counter) (lines []string) {
	var gone []string
	for _, c := range ownChains() {
		needed := slices.ContainsFunc(want, func(r string) bool { return chainOf(r) == c })
		if c == dropChain && !all || !needed && !slices.Contains(st.chains, c) {
			continue
		}
		lines = append(lines, ":"+c+" - [0:0]") // makes the chain, or empties it
		if !needed {
			gone = append(gone, "-X "+c)
		}
	}
	for _, r := range want {
		var c counter
		if r == dropRule {
			if !all {
				continue
			}
			c = from
		}
		lines = append(lines, fmt.Sprintf("[%d:%d] %s", c.packets, c.bytes, r))
	}
	return append(lines, gone...)
}
