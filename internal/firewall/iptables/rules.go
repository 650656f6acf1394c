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
	// dropTarget is the target of the rule whose counter counts the drops.
	dropTarget = "-j DROP"
	dropRule   = "-A " + dropChain + " " + dropTarget
	// snapLen is how many bytes of a packet are copied. They hold its headers.
	snapLen = 128
	// limitMost is the highest rate of the match limit, in packets per second. It counts in units
	// of 1/10,000 s.
	limitMost = 10_000
	// burstMost is the largest burst of either match, in packets.
	burstMost = 10_000
)

// rules returns the rules of our chains as iptables-save prints them. An unlisted packet leaves
// after one lookup. Only packets of listed sources take the other rules. The whitelist costs each of
// them a lookup for each of its prefix lengths, so it is looked up only if a listed source is on it.
func rules(fam family, rs ruleset.Ruleset, counting bool) []string {
	want := []string{"-A " + chain + " -m set ! --match-set " + fam.blocklist() + " src -j RETURN"}
	if counting {
		want = append(want, fam.countingRules(rs)...)
	} else {
		want = append(want, fam.plainRules(rs)...)
	}
	for range rs.Block.Overlapping(rs.Allow) {
		return fam.guarded(want)
	}
	return want
}

// guarded returns the rules with a lookup of the whitelist.
func (f family) guarded(rules []string) []string {
	return slices.Insert(slices.Clone(rules), 1, "-A "+chain+" "+f.admission())
}

// admission returns the rule that lets the sources of the whitelist through.
func (f family) admission() string { return lookUp(f.whitelist(), "src") + " -j RETURN" }

// limit returns the match that lets the log rate through.
func (f family) limit(rs ruleset.Ruleset) string { return limit("sikker"+f.mark, max(rs.LogRate, 1)) }

// limit returns the match that lets rate packets per second through. The match limit rounds up to
// whole units of its clock. hashlimit without a mode, which counts all packets together, is exact
// to a millionth. Its state has a name, of at most 15 characters on old kernels. Rules of the same
// name share the rate of the first one, so the name contains the rate.
func limit(name string, rate uint32) string {
	burst := min(rate, burstMost)
	switch {
	case rate == 5: // iptables does not print its default burst, which is 5
		return "limit --limit 5/sec"
	case limitMost%rate == 0:
		return fmt.Sprintf("limit --limit %d/sec --limit-burst %d", rate, burst)
	}
	return fmt.Sprintf("hashlimit --hashlimit-upto %d/sec --hashlimit-burst %d --hashlimit-name %s-%d",
		rate, burst, name, rate)
}

// tables are the programs that read and write the rules of one family.
type tables struct {
	family
	list, save, restore string // paths
	legacy              bool   // they use ip_tables, not nf_tables
}

// loaded reports whether the kernel has a table raw. It does not make one, as the programs do.
func (t tables) loaded() (bool, error) {
	if !t.legacy {
		return hasNFTable(t.proto)
	}
	raw, err := os.ReadFile(t.tablesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: only root may read it, so run the agent as root "+
			"(docs/systemd.md: what the unit needs)", err)
	}
	if err != nil {
		return false, fmt.Errorf("list the tables of iptables: %w", err)
	}
	return slices.Contains(strings.Fields(string(raw)), "raw"), nil
}

// readState reads the table. With ErrUnprintable, the state lacks the rules of our chain.
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

// change applies the lines to table raw, all of them or none.
func (f *Firewall) change(ctx context.Context, t tables, lines ...string) error {
	text := "*raw\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	_, _, err := f.run.run(ctx, askTime, script(text), t.restore, "--noflush", "--counters", "--wait", lockWait)
	return err
}

// writeRules writes the rules want to our chain and makes its jump the first rule. The counter
// continues. printed is the printed form of the rules.
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
	lines, rebuilt := st.edit(want, printed, from)
	if rebuilt {
		// The input sets the kernel's counter to from. ip6tables-nft 1.8.9 ignores that, and the
		// counter then shows less.
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
		// A program that was killed or failed late may have made the change. The counter then
		// continues at from.
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

// printing is the printed form of written rules. Versions of iptables differ.
type printing struct{ want, got []string }

// asPrinted returns the printed form of the rules want, if it is known, and otherwise want.
func (f *Firewall) asPrinted(t tables, want []string) []string {
	if known, ok := f.printings[t.proto]; ok && slices.Equal(known.want, want) {
		return known.got
	}
	return want
}

// removeChains removes our chains and the jumps to them from the table, and reports whether there
// was a chain that blocks.
func (f *Firewall) removeChains(ctx context.Context, t tables) (bool, error) {
	st, err := f.outline(ctx, t)
	if err != nil {
		return false, err
	}
	var empty, gone []string
	for range st.jumps {
		empty = append(empty, "-D PREROUTING -j "+chain)
	}
	for _, c := range st.chains {
		empty, gone = append(empty, "-F "+c), append(gone, "-X "+c)
	}
	if len(empty) == 0 {
		return false, nil
	}
	err = f.change(ctx, t, append(empty, gone...)...)
	if err == nil {
		return st.chain, nil
	}
	// Another program's rule may jump to a chain. The chain then stays, empty. The obstacle may also
	// be gone by now.
	if eerr := f.change(ctx, t, empty...); eerr != nil {
		return true, fmt.Errorf("remove %s rules: %w", t.name, err)
	}
	var errs []error
	for i, c := range st.chains {
		if err := f.change(ctx, t, gone[i]); err != nil {
			errs = append(errs, fmt.Errorf("remove %s chain %s, which is empty now (another rule may refer to it): %w",
				t.name, c, err))
		}
	}
	if len(errs) == 0 {
		return st.chain, nil
	}
	return true, errors.Join(errs...)
}
