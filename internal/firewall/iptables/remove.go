package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// removeTime is how long it may take to remove everything. The unit and compose.yaml give 30 s for stopping, of which Disarm
// needs 10 when another program holds the lock of iptables.
const removeTime = 15 * time.Second

// Disarm takes the jumps to our chain out: nothing is dropped any more, and the counters stand still.
func (f *Firewall) Disarm() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = nil // what the watch sees from now on is no loss
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
		return fmt.Errorf("end %s rules: %w", t.name, err)
	}
	return nil
}

// Remove takes the rules and then the sets off the host, if they are there. Nothing else was ever changed.
func (f *Firewall) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = nil
	f.changes++
	_, err := f.remove(context.Background())
	return err
}

// removal is what is removed of one family.
type removal struct {
	family
	all     []tables // in which rules may be
	chains  int      // that were removed
	sets    int
	unasked error // of the programs that are not among all
	err     error // of those that are
}

// remove removes what is ours, whichever kind of iptables it was put there with, and says what that was. The rules of both
// families come first: they are what holds up packets.
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
	for _, c := range f.tallies {
		c.reset()
	}
	if sets > 0 {
		removed = append(removed, fmt.Sprintf("%d sets sikkerguard-*", sets))
	}
	return removed, errors.Join(errs...)
}

// removeRules takes our rules out of every table of a family: first of the one in use, even if its programs no longer say
// what they are.
func (f *Firewall) removeRules(ctx context.Context, r *removal) {
	var found []tables
	found, r.unasked = f.workingPrograms(r.family)
	for _, t := range f.families {
		if t.proto == r.proto {
			r.all = append(r.all, t)
		}
	}
	for _, t := range found {
		if !f.uses(t) {
			r.all = append(r.all, t)
		}
	}
	var errs []error
	for _, t := range r.all {
		taken, err := f.removeChains(ctx, t)
		if errors.Is(err, fs.ErrPermission) && !f.uses(t) {
			continue // rules that are there nevertheless hold the sets, which then cannot be destroyed
		}
		if err != nil && len(found) == 0 {
			err = errors.Join(err, f.missingPrograms(r))
		}
		if errs = append(errs, err); taken && err == nil {
			r.chains++
		}
	}
	r.err = errors.Join(errs...)
}

// missing says which programs are missing that rules are removed with.
func (f *Firewall) missingPrograms(r *removal) error {
	if r.unasked != nil {
		return r.unasked
	}
	return fmt.Errorf("%w; %s is not in %s, with which the rules are removed", ErrMissing, r.program(), strings.Join(f.run.dirs, ", "))
}

// removeSets destroys the sets of one family, whose rules are gone. Where a step fails the sets stay that come after it, the
// mark of a table among them: it is by them that the rest is found again.
func (f *Firewall) removeSets(ctx context.Context, r *removal) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(r.allSets(), func(n string) bool { return !have[n].isOurs(n) })
	marked := have[r.markSet()].isOurs(r.markSet())
	if marked {
		names = names[:len(names)-1] // it is the last
	}
	if err := f.destroy(ctx, names...); err != nil {
		if len(r.all) == 0 || r.unasked != nil { // rules that look them up may be there
			err = errors.Join(f.missingPrograms(r), err)
		}
		return err
	}
	r.sets = len(names) // nothing looks them up any more, whatever a program says that could not be asked
	if !marked && !f.madeTable[r.proto] {
		return nil
	}
	var errs []error
	nft := false
	for _, t := range r.all {
		if !t.legacy {
			nft = true
			errs = append(errs, f.deleteTable(ctx, t))
		}
	}
	if !nft {
		errs = append(errs, r.unasked)
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

// endOthers takes out what an agent put there with the other kind of iptables, or in a family that is not enforced now:
// packets would be judged twice, or by a list that nobody refreshes. Until that succeeded once it is a gap, and no failure
// of what is in force.
func (f *Firewall) removeOtherKinds(ctx context.Context) {
	if f.othersRemoved {
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
	f.othersRemoved = err == nil
	f.gap.Store(nil)
	if err != nil {
		gap := ruleset.Gap("rules of an agent with another kind of iptables may also be active (`sikkerguard cleanup`, "+
			"while the agent is stopped, removes them)", err)
		f.gap.Store(&gap)
	}
}

// uses says whether what is in force is in t.
func (f *Firewall) uses(t tables) bool {
	return slices.ContainsFunc(f.families, func(u tables) bool { return u.proto == t.proto && u.legacy == t.legacy })
}

// end takes our rules out of a table that is not used, and a table raw that was made for them.
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

// forget removes the rules of one family, and those of its sets that were not there before: rules of another kind of
// iptables may look up those that were.
func (f *Firewall) undoFamily(ctx context.Context, t tables, before map[string]setInfo) error {
	if _, err := f.removeChains(ctx, t); err != nil {
		return err
	}
	names := slices.DeleteFunc(t.allSets(), func(n string) bool { _, ok := before[n]; return ok })
	if !t.legacy && f.madeTable[t.proto] && slices.Contains(names, t.markSet()) {
		if err := f.deleteTable(ctx, t); err != nil {
			return errors.Join(err, f.destroy(ctx, slices.DeleteFunc(names, func(n string) bool { return n == t.markSet() })...))
		}
	}
	return f.destroy(ctx, names...)
}

// dropTable deletes table raw of nf_tables, which the agent was the first to need here, unless somebody else uses it by
// now.
func (f *Firewall) deleteTable(ctx context.Context, t tables) error {
	st, err := f.outline(ctx, t)
	if err != nil || st.foreign || st.chain {
		return err
	}
	loaded, err := t.loaded()
	if err != nil || !loaded {
		return err
	}
	err = deleteNFTable(t.proto)
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) { // by then somebody used it, or deleted it
		return fmt.Errorf("delete %s table raw: %w", t.name, err)
	}
	return nil
}
