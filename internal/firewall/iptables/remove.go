package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// removeTime is the longest time for the removal. The unit and compose.yaml allow 30 s for a stop.
// Disarm takes up to 10 s of them while another program holds the lock of iptables.
const removeTime = 15 * time.Second

// Disarm removes the jumps to our chain. The rules then drop nothing and their counters stand
// still.
func (f *Firewall) Disarm() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = nil // Watch then reports no change
	f.changes++
	var errs []error
	for _, t := range f.families {
		errs = append(errs, f.disarm(context.Background(), t))
	}
	return errors.Join(errs...)
}

func (f *Firewall) disarm(ctx context.Context, t tables) error {
	st, err := f.outline(ctx, t)
	if err != nil || st.jumps == 0 {
		return err
	}
	var lines []string
	for range st.jumps {
		lines = append(lines, "-D PREROUTING -j "+chain)
	}
	if err := f.change(ctx, t, lines...); err != nil {
		return fmt.Errorf("disarm %s rules: %w", t.name, err)
	}
	return nil
}

// Remove removes the rules and then the sets from the host.
func (f *Firewall) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = nil
	f.changes++
	f.forgetHits()
	_, err := f.remove(context.Background())
	return err
}

// removal is the removal of one family.
type removal struct {
	family
	tables []tables // may hold our rules
	chains int      // removed
	sets   int
	unread error // of programs that are not in tables
	err    error // of the tables
}

// remove removes our rules and sets, whichever kind of iptables made them, and returns their names.
// The rules of both families come first, because they drop packets.
func (f *Firewall) remove(ctx context.Context) (removed []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	var errs []error
	sets := 0
	var rr []*removal
	for _, fam := range []family{ipv4(), ipv6()} {
		r := &removal{family: fam}
		rr = append(rr, r)
		f.removeRules(ctx, r)
	}
	for _, r := range rr {
		if r.err == nil {
			r.err = f.removeSets(ctx, r)
		}
		for range r.chains {
			removed = append(removed, fmt.Sprintf("%s chain %s", r.name, chain))
		}
		sets += r.sets
		errs = append(errs, r.err)
	}
	errs = append(errs, f.moveBack(ctx))
	for _, c := range f.tallies {
		c.reset()
	}
	if sets > 0 {
		removed = append(removed, fmt.Sprintf("%d sets sikkerguard-*", sets))
	}
	return removed, errors.Join(errs...)
}

// removeRules removes our rules from every table of a family. The table in use comes first, even if
// its programs no longer name their kind.
func (f *Firewall) removeRules(ctx context.Context, r *removal) {
	var found []tables
	found, r.unread = f.workingPrograms(r.family)
	for _, t := range f.families {
		if t.proto == r.proto {
			r.tables = append(r.tables, t)
		}
	}
	for _, t := range found {
		if !f.uses(t) {
			r.tables = append(r.tables, t)
		}
	}
	var errs []error
	for _, t := range r.tables {
		removed, err := f.removeChains(ctx, t)
		if errors.Is(err, fs.ErrPermission) && !f.uses(t) {
			continue // rules that are left hold the sets, so removeSets fails
		}
		if err != nil && len(found) == 0 {
			err = errors.Join(err, f.missingPrograms(r))
		}
		if errs = append(errs, err); removed && err == nil {
			r.chains++
		}
	}
	r.err = errors.Join(errs...)
}

// missingPrograms returns an error that names the programs needed to remove rules.
func (f *Firewall) missingPrograms(r *removal) error {
	if r.unread != nil {
		return r.unread
	}
	return fmt.Errorf("%w; %s, which removes the rules, is not in %s", ErrMissing, r.program(),
		strings.Join(f.run.dirs, ", "))
}

// removeSets destroys the sets of a family whose rules are removed. If a step fails, the sets of
// the later steps stay, with the mark of the table: a later removal finds the rest by them.
func (f *Firewall) removeSets(ctx context.Context, r *removal) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(r.allSets(), func(n string) bool { return !have[n].isOurs(n) })
	marked := have[r.markSet()].isOurs(r.markSet())
	if marked {
		names = names[:len(names)-1] // the mark is the last
	}
	if err := f.destroy(ctx, names...); err != nil {
		if len(r.tables) == 0 || r.unread != nil { // rules may still look them up
			err = errors.Join(f.missingPrograms(r), err)
		}
		return err
	}
	r.sets = len(names) // no rule looks them up, even if a program could not be read
	if !marked && !f.madeTable[r.proto] {
		return nil
	}
	var errs []error
	nft := false
	for _, t := range r.tables {
		if !t.legacy {
			nft = true
			errs = append(errs, f.deleteTable(ctx, t))
		}
	}
	if !nft {
		errs = append(errs, r.unread)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	delete(f.madeTable, r.proto)
	if marked {
		r.sets++
	}
	return f.destroy(ctx, r.markSet())
}

// otherKinds is the state of rules that an agent wrote with another kind of iptables.
type otherKinds struct {
	removed bool                   // none are left
	gap     atomic.Pointer[string] // rules that could not be removed; nil if none are known
}

// removeOtherKinds removes rules that an agent wrote with the other kind of iptables, or in a
// family that is no longer enforced. They would judge packets twice, or by a list that no agent
// refreshes. A failure is a gap until a later call succeeds. It is no error of the active rules.
func (f *Firewall) removeOtherKinds(ctx context.Context) {
	if f.others.removed {
		return
	}
	var errs []error
	for _, fam := range []family{ipv4(), ipv6()} {
		all, err := f.workingPrograms(fam)
		errs = append(errs, err)
		for _, t := range all {
			if !f.uses(t) {
				errs = append(errs, f.removeUnused(ctx, t))
			}
		}
	}
	err := errors.Join(errs...)
	f.others.removed = err == nil
	f.others.gap.Store(nil)
	if err != nil {
		gap := ruleset.Gap("rules of an agent with another kind of iptables may also be active "+
			"(`sikkerguard cleanup`, while the agent is stopped, removes them)", err)
		f.others.gap.Store(&gap)
	}
}

// uses reports whether the active rules are in t.
func (f *Firewall) uses(t tables) bool {
	return slices.ContainsFunc(f.families, t.same)
}

// removeUnused removes our rules from a table that is not in use, and a table raw that an agent
// made.
func (f *Firewall) removeUnused(ctx context.Context, t tables) error {
	if _, err := f.removeChains(ctx, t); err != nil || t.legacy {
		return err
	}
	have, err := f.listSets(ctx)
	if err != nil || !have[t.markSet()].isOurs(t.markSet()) {
		return err
	}
	if err := f.deleteTable(ctx, t); err != nil {
		return err
	}
	return f.destroy(ctx, t.markSet())
}

// undoFamily removes the rules of one family, and the sets that are not in before. Rules of another
// kind of iptables may look up the sets in before.
func (f *Firewall) undoFamily(ctx context.Context, t tables, before map[string]setInfo) error {
	if _, err := f.removeChains(ctx, t); err != nil {
		return err
	}
	names := slices.DeleteFunc(t.allSets(), func(n string) bool { _, ok := before[n]; return ok })
	if !t.legacy && f.madeTable[t.proto] && slices.Contains(names, t.markSet()) {
		if err := f.deleteTable(ctx, t); err != nil {
			names = slices.DeleteFunc(names, func(n string) bool { return n == t.markSet() })
			return errors.Join(err, f.destroy(ctx, names...))
		}
	}
	return f.destroy(ctx, names...)
}

// deleteTable deletes table raw of nf_tables, which the agent made, unless another program uses it.
func (f *Firewall) deleteTable(ctx context.Context, t tables) error {
	st, err := f.outline(ctx, t)
	if err != nil || st.foreign || st.chain {
		return err
	}
	loaded, err := t.loaded()
	if err != nil || !loaded {
		return err
	}
	// The kernel answers EBUSY if another program uses the table by now, and ENOENT if another
	// program deleted it.
	err = deleteNFTable(t.proto)
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete %s table raw: %w", t.name, err)
	}
	return nil
}
