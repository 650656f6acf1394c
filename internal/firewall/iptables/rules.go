package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// drop is the last rule, and the one whose count is told.
	drop = "-j DROP"
	// snapLen is how many bytes of a packet are copied: its headers.
	snapLen = 128
	// limitMost is the finest rate of the match limit, packets a second: it counts in parts of 1/10,000 s.
	limitMost = 10_000
	// burstMost is the largest burst of either match, in packets.
	burstMost = 10_000
)

// rules are the rules of chain SIKKERGUARD, written as iptables-save prints them. What is not listed leaves after one
// lookup; only packets of listed sources pay for the rest.
func rules(fam family, rs ruleset.Ruleset) []string {
	return fam.rulesOn(fam.blocklist(), fam.whitelist(), rs)
}

// rulesOn are rules over these sets.
func (f family) rulesOn(block, allow string, rs ruleset.Ruleset) []string {
	return []string{
		"-m set ! --match-set " + block + " src -j RETURN",
		"-m set --match-set " + allow + " src -j RETURN",
		"-m " + limit("sikker"+f.mark, max(rs.LogRate, 1)) + fmt.Sprintf(" -j NFLOG --nflog-group %d --nflog-size %d", rs.LogGroup, snapLen),
		drop,
	}
}

// limit is the match that lets so many packets a second through. The match limit rounds up to whole parts of its clock;
// hashlimit, without a mode that tells packets apart, is exact to a millionth. It keeps its state under a name, of 15
// characters at most on old kernels, and rules of the same name share the rate of the first: so the name holds the rate.
func limit(name string, rate uint32) string {
	burst := min(rate, burstMost)
	switch {
	case rate == 5: // the burst that iptables takes by itself, and does not print
		return "limit --limit 5/sec"
	case limitMost%rate == 0:
		return fmt.Sprintf("limit --limit %d/sec --limit-burst %d", rate, burst)
	}
	return fmt.Sprintf("hashlimit --hashlimit-upto %d/sec --hashlimit-burst %d --hashlimit-name %s-%d", rate, burst, name, rate)
}

// state is what the kernel has of one family's table raw.
type state struct {
	chain   bool     // ours is there
	rules   []string // of our chain, without its name
	jumps   int      // from PREROUTING to our chain, without a condition
	first   bool     // the first rule of PREROUTING is one of them
	dropped *counter // of our rule that drops; nil when there is none
	probe   bool     // a chain is left in which it was tried what the kernel can do
	foreign bool     // somebody else has something in the table
}

// right says whether the kernel has these rules, and packets come to them first.
func (st state) matches(want []string) bool {
	return st.chain && st.first && st.jumps == 1 && slices.Equal(st.rules, want)
}

// parseState reads what iptables-save --counters prints of table raw.
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
		switch own, isOwn := strings.CutPrefix(rule, "-A "+chain+" "); {
		case isOwn:
			st.rules = append(st.rules, own)
			var c counter
			if _, err := fmt.Sscanf(counted, "[%d:%d", &c.packets, &c.bytes); own == drop && err == nil {
				st.dropped = &c
			}
		case rule == jump:
			st.jumps++
			st.first = st.first || before == 0
		case strings.HasPrefix(rule, "-A "+probeChain+" "):
		default:
			st.foreign = true
		}
		if strings.HasPrefix(rule, "-A PREROUTING ") {
			before++
		}
	}
	return st
}

// declare takes a line that names a chain and its policy: "PREROUTING ACCEPT [0:0]".
func (st *state) declare(text string) {
	words := strings.Fields(text)
	switch {
	case len(words) < 2:
	case words[0] == chain:
		st.chain = true
	case words[0] == probeChain:
		st.probe = true
	case words[1] != "ACCEPT": // of somebody's chain it is "-"
		st.foreign = true
	}
}

// tables are the programs that read and write the rules of one family.
type tables struct {
	family
	list, save, restore string // paths
	legacy              bool   // they speak to ip_tables, not to nf_tables
}

// loaded says whether the kernel has a table raw here, without making one, as asking the programs for it would.
func (t tables) loaded() (bool, error) {
	if !t.legacy {
		return hasNFTable(t.proto)
	}
	raw, err := os.ReadFile(t.names)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: only root may read that, so run the agent as root (docs/systemd.md has what its unit needs for that)", err)
	}
	if err != nil {
		return false, fmt.Errorf("ask which tables iptables has: %w", err)
	}
	return slices.Contains(strings.Fields(string(raw)), "raw"), nil
}

// state reads the table. With ErrUnprintable all is told but the rules of our chain.
func (f *Firewall) readState(ctx context.Context, t tables) (state, error) {
	if ok, err := t.loaded(); !ok || err != nil {
		return state{}, err
	}
	out, _, err := f.run.run(ctx, askTime, nil, t.save, "--counters", "--table", "raw")
	if err != nil {
		return state{}, fmt.Errorf("read %s rules: %w", t.name, err)
	}
	if !t.legacy && !tablePrinted(out) {
		return f.readUnprintable(ctx, t)
	}
	return parseState(out), nil
}

// change makes these changes to table raw, all of them or none.
func (f *Firewall) change(ctx context.Context, t tables, lines ...string) error {
	text := "*raw\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	_, _, err := f.run.run(ctx, askTime, []byte(text), t.restore, "--noflush", "--counters", "--wait", lockWait)
	return err
}

// put makes the chain hold these rules, and packets come to it first. What was counted is counted on from. printed is how
// the rules are printed when they are right.
func (f *Firewall) writeRules(ctx context.Context, t tables, want, printed []string) error {
	c := f.tallies[t.proto]
	c.mu.Lock()
	st, err := f.readState(ctx, t)
	if err != nil && !errors.Is(err, ErrUnprintable) {
		c.mu.Unlock()
		return err
	}
	from := c.add(st.dropped)
	old := [2]counter{c.before, c.reading}
	lines, anew := st.edit(want, printed, from)
	if anew {
		// The kernel is told to count on from there. ip6tables-nft 1.8.9 does not tell it; then it shows less.
		c.before, c.reading = counter{}, from
	}
	c.replacing = true
	c.mu.Unlock()

	err = f.change(ctx, t, lines...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replacing = false
	after, serr := f.readState(ctx, t)
	if err != nil {
		// A program that was killed, or that failed in the end, may have made the change all the same. If it did, the rules
		// count from there.
		made := after.dropped != nil && after.dropped.packets >= from.packets
		if known := serr == nil || errors.Is(serr, ErrUnprintable); known && !made {
			c.before, c.reading = old[0], old[1]
		}
		c.add(after.dropped)
		return fmt.Errorf("write %s rules: %w", t.name, err)
	}
	if serr != nil {
		return serr
	}
	c.add(after.dropped)
	if !slices.EqualFunc(after.rules, want, func(a, b string) bool { return target(a) == target(b) }) {
		return mismatch("%s chain %s was changed while it was written", t.name, chain)
	}
	f.printings[t.proto] = printing{want: want, got: after.rules}
	return nil
}

// target is where a rule sends a packet.
func target(rule string) string {
	_, t, _ := strings.Cut(rule, "-j ")
	name, _, _ := strings.Cut(t, " ")
	return name
}

// edit are the changes that make the table what is wanted. The rule that drops stays if it is there, so that no packet is
// missing from its count; else all are made anew, and it counts on from from.
func (st state) edit(want, printed []string, from counter) (lines []string, anew bool) {
	at := slices.Index(st.rules, drop)
	switch anew = at < 0 || slices.Contains(st.rules[at+1:], drop); {
	case anew:
		lines = append(lines, ":"+chain+" - [0:0]") // makes it, or empties it
		for i, r := range want {
			var c counter
			if i == len(want)-1 {
				c = from
			}
			lines = append(lines, fmt.Sprintf("[%d:%d] -A %s %s", c.packets, c.bytes, chain, r))
		}
	case !slices.Equal(st.rules, printed):
		for i := range slices.Backward(st.rules) {
			if i != at {
				lines = append(lines, fmt.Sprintf("-D %s %d", chain, i+1))
			}
		}
		for _, r := range slices.Backward(want[:len(want)-1]) {
			lines = append(lines, "-I "+chain+" "+r)
		}
	}
	if !st.first || st.jumps != 1 {
		for range st.jumps {
			lines = append(lines, "-D PREROUTING -j "+chain)
		}
		lines = append(lines, "-I PREROUTING 1 -j "+chain)
	}
	return lines, anew
}

// printing is how this iptables prints rules that it was given: versions may differ in it.
type printing struct{ want, got []string }

// printed is how the wanted rules are printed, as far as is known.
func (f *Firewall) asPrinted(t tables, w *plan) []string {
	if p, ok := f.printings[t.proto]; ok && slices.Equal(p.want, w.rules[t.proto]) {
		return p.got
	}
	return w.rules[t.proto]
}

// take takes our chains and the jump to them out of the table, and says whether they were there.
func (f *Firewall) removeChains(ctx context.Context, t tables) (bool, error) {
	st, err := f.outline(ctx, t)
	if err != nil {
		return false, err
	}
	var empty, gone []string
	for range st.jumps {
		empty = append(empty, "-D PREROUTING -j "+chain)
	}
	if st.chain {
		empty, gone = append(empty, "-F "+chain), append(gone, "-X "+chain)
	}
	if st.probe {
		empty, gone = append(empty, "-F "+probeChain), append(gone, "-X "+probeChain)
	}
	if len(empty) == 0 {
		return false, nil
	}
	err = f.change(ctx, t, append(empty, gone...)...)
	if err == nil {
		return st.chain, nil
	}
	// A rule of somebody else's may jump to the chain. Then it stays, and does nothing. What was in the way may also have
	// passed.
	if eerr := f.change(ctx, t, empty...); eerr != nil {
		return true, fmt.Errorf("remove %s rules: %w", t.name, err)
	}
	if len(gone) > 0 {
		err = f.change(ctx, t, gone...)
	}
	if err == nil {
		return st.chain, nil
	}
	return true, fmt.Errorf("remove %s chain %s, which is empty now (another rule may refer to it): %w", t.name, chain, err)
}
