package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
)

// asideEnd ends the new name of another program's set that had a name of ours. With it a name of
// ours still has at most 31 characters, the limit of ipset.
const asideEnd = "-other"

// asideSets are renamed sets of other programs that had a name of ours.
type asideSets struct {
	names map[string]string      // new names by the old ones
	gap   atomic.Pointer[string] // gap that lists them; nil if there are none
}

// updateGap sets the gap to the list of the renamed sets.
func (a *asideSets) updateGap() {
	if len(a.names) == 0 {
		a.gap.Store(nil)
		return
	}
	var renamed []string
	for _, name := range slices.Sorted(maps.Keys(a.names)) {
		renamed = append(renamed, name+" to "+a.names[name])
	}
	gap := "another program made sets with names of SikkerGuard; they are renamed (" +
		strings.Join(renamed, ", ") + ") until it stops"
	a.gap.Store(&gap)
}

// moveAside renames another program's sets with one of these names, so that ours can be made. If a
// rule or another set refers to a set, it cannot be renamed. The error then names the set and the
// remedy.
func (f *Firewall) moveAside(ctx context.Context, have map[string]setInfo, fam family, names ...string) error {
	for _, name := range names {
		err := checkForeign(have, fam, name)
		if err == nil {
			continue
		}
		aside, ok := freeName(have, name+asideEnd)
		if !ok || have[name].used {
			return err
		}
		if _, _, rerr := f.run.run(ctx, askTime, nil, f.ipset, "rename", name, aside); rerr != nil {
			return errors.Join(err, rerr)
		}
		have[aside] = have[name]
		delete(have, name)
		if f.aside.names == nil {
			f.aside.names = map[string]string{}
		}
		f.aside.names[name] = aside
	}
	f.aside.updateGap()
	return nil
}

// moveBack gives the renamed sets their old names.
func (f *Firewall) moveBack(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.aside.names)) {
		if _, _, err := f.run.run(ctx, askTime, nil, f.ipset, "rename", f.aside.names[name], name); err != nil {
			errs = append(errs, fmt.Errorf("give another program's set its name back: %w", err))
		}
		delete(f.aside.names, name) // another try would also fail
	}
	f.aside.updateGap()
	return errors.Join(errs...)
}
