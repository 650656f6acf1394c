package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// watchInterval is the interval of Watch. Each time it runs three programs, for some milliseconds
// each.
const watchInterval = time.Second

// mismatch returns an error that wraps ruleset.ErrMismatch.
func mismatch(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ruleset.ErrMismatch}, args...)...)
}

// Verify asks the kernel whether it still enforces the last Apply.
func (f *Firewall) Verify() (ruleset.Evidence, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	start := time.Now()
	e, err := f.verify(context.Background(), nil)
	e.Took = time.Since(start)
	return e, err
}

// verify checks the rules, counts the elements of each set, and looks some of them up, and some of
// the changes d. It changes nothing.
func (f *Firewall) verify(ctx context.Context, d differences) (ruleset.Evidence, error) {
	if f.applied == nil {
		return ruleset.Evidence{}, mismatch("nothing was applied")
	}
	counted, err := f.check(ctx)
	e := ruleset.Evidence{Entries4: f.applied.entries[0], Entries6: f.applied.entries[1], Counted: counted}
	if err != nil {
		return e, err
	}
	if e.Sampled, err = f.sample(ctx, f.applied.sets(), d); err != nil {
		return e, err
	}
	for _, spec := range f.applied.block {
		e.Elements += spec.count
	}
	return e, nil
}

// check is the part of verify that Watch repeats. counted reports whether ipset printed the number
// of elements.
func (f *Firewall) check(ctx context.Context) (counted bool, err error) {
	for _, t := range f.families {
		// If another program deletes the rules, their count continues from this reading.
		st, err := f.readStateCounted(ctx, t)
		if err != nil && !errors.Is(err, ErrUnprintable) {
			return false, err
		}
		switch want := f.asPrinted(t, f.applied.rules[t.proto]); {
		case !st.chain:
			return false, mismatch("%s chain %s is missing", t.name, chain)
		case !st.first || st.jumps != 1:
			return false, mismatch("the first rule of %s PREROUTING does not jump to %s, or another rule also does",
				t.name, chain)
		case err != nil:
			return false, mismatch("the rules of %s chain %s were changed: %w", t.name, chain, err)
		case !slices.Equal(st.rules, want):
			return false, mismatch("the rules of %s chain %s were changed", t.name, chain)
		}
	}
	have, err := f.listSets(ctx)
	if err != nil {
		return false, err
	}
	f.aside.update(have)
	for _, t := range f.families {
		for _, s := range t.hitSets() {
			if f.counting && !have[s.name].isOurs(s.name) {
				return false, mismatch("set %s is missing", s.name)
			}
		}
	}
	counted = true
	for _, spec := range f.applied.sets() {
		info, ok := have[spec.name]
		switch {
		case !ok:
			return false, mismatch("set %s is missing", spec.name)
		case !info.isOurs(spec.name):
			return false, mismatch("set %s is of type %s and family %s: another program made it",
				spec.name, info.kind, info.family)
		case info.counted && info.entries != spec.count:
			return false, mismatch("set %s has %d elements, not %d", spec.name, info.entries, spec.count)
		}
		counted = counted && info.counted
	}
	return counted, f.contents.exchanged
}

// Watch checks every second, until ctx ends, whether another program changed the rules or the
// number of elements. Less often, it checks whether another program exchanged elements. If the
// kernel no longer enforces the last Apply, it calls lost. It calls lost again for another
// difference, and for the same one after another Apply. The error is one of reading.
func (f *Firewall) Watch(ctx context.Context, lost func(error)) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		change, err := f.poll(ctx)
		found := ""
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ruleset.ErrMismatch):
			if found = fmt.Sprint(change, err); found != reported {
				lost(err)
			}
		case err != nil:
			return fmt.Errorf("watch the firewall: %w", err)
		}
		reported = found
	}
}

// poll checks the last Apply, if there is one, and returns the number of our changes before it.
func (f *Firewall) poll(ctx context.Context) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied == nil {
		return f.changes, nil
	}
	_, err := f.check(ctx)
	if err == nil {
		err = f.contents.check(ctx, f, f.applied.sets())
	}
	if err == nil {
		err = f.contents.exchanged
	}
	return f.changes, err
}

// Present checks that our chain is in table raw, with a jump to it, in each family. It does not
// wait for a change of the rules.
func (f *Firewall) Present() error {
	for _, t := range f.families {
		st, err := f.outline(context.Background(), t)
		switch {
		case err != nil:
			return err
		case !st.chain || st.jumps == 0:
			return mismatch("%s chain %s is missing, or nothing jumps to it", t.name, chain)
		}
	}
	return nil
}

// Left reports whether sets of an agent exist. Each leftover of an agent includes a set. Left
// changes nothing and loads no module. The error is ErrRunning if the sets are those of a running
// agent, and ErrMissing if ipset is missing and rules of an agent exist.
func Left() (bool, error) { return left(context.Background(), strings.Split(path, ":")) }

func left(ctx context.Context, dirs []string) (bool, error) {
	if able, err := mayHaveSets(); !able {
		return false, err
	}
	f, missing := newFirewall(dirs)
	if missing != nil {
		if found, err := f.hasChain(ctx); !found || err != nil {
			return false, err
		}
		return true, missing
	}
	have, err := f.listSets(ctx)
	if err != nil {
		return false, err
	}
	maps.DeleteFunc(have, func(name string, info setInfo) bool { return !info.isOurs(name) })
	if len(have) == 0 {
		return false, nil
	}
	l, err := claim()
	if err != nil {
		return true, err
	}
	return true, l.Close()
}

// mayHaveSets reports whether the kernel can have sets and the process may read them.
func mayHaveSets() (bool, error) {
	if _, err := os.Stat("/sys/module/ip_set"); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	ok, err := permitted(false)
	if err == nil && !ok {
		err = ErrPermission
	}
	return ok && err == nil, err
}

// InForce reports whether packets reach our chain, the chain of a running agent or of a killed one.
// It changes nothing.
func InForce() (bool, error) {
	if able, err := mayHaveSets(); !able {
		return false, err
	}
	f, _ := newFirewall(strings.Split(path, ":")) // it only reads rules
	return f.anyTable(context.Background(), func(st state) bool { return st.chain && st.jumps > 0 })
}

// hasChain reports whether our chain is in any table raw.
func (f *Firewall) hasChain(ctx context.Context) (bool, error) {
	return f.anyTable(ctx, func(st state) bool { return st.chain })
}

// anyTable reports whether has is true for the state of any table raw.
func (f *Firewall) anyTable(ctx context.Context, has func(state) bool) (bool, error) {
	var errs []error
	for _, fam := range []family{ipv4(), ipv6()} {
		all, err := f.workingPrograms(fam)
		errs = append(errs, err)
		for _, t := range all {
			st, err := f.outline(ctx, t)
			if has(st) {
				return true, nil
			}
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

// Cleanup removes the sets and rules of a dead agent and returns their names. The error is
// ErrRunning if an agent runs: the stop of that agent removes them.
func Cleanup() (removed []string, err error) {
	if found, err := Left(); !found || err != nil {
		return nil, err
	}
	f, err := newFirewall(strings.Split(path, ":"))
	if err != nil {
		return nil, err
	}
	if f.lock, err = claim(); err != nil {
		return nil, err
	}
	removed, err = f.remove(context.Background())
	return removed, errors.Join(err, f.Close())
}
