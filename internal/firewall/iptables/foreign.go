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

// asideEnd is the end of the name of another program's set that had a name of ours. With it the name
// has at most the 31 characters that ipset takes.
const asideEnd = "-other"

// asideSets are the sets of other programs that had a name of ours and got another one.
type asideSets struct {
	names map[string]string      // the names that they have now, by the names that they had
	gap   atomic.Pointer[string] // says so; nil if there is none
}

// moveAside renames another program's sets that have one of these names, so that ours can be made. A
// set that rules or other sets refer to cannot be renamed. The error then names it and the remedy.
func (f *Firewall) moveAside(ctx context.Context, have map[string]setInfo, fam family, names ...string) error {
	for _, name := range names {
		err := checkForeign(have, fam, name)
		if err == nil {
			continue
		}
		other := slices.IndexFunc(spares(name+asideEnd), func(n string) bool { _, ok := have[n]; return !ok })
		if other < 0 || have[name].used {
			return err
		}
		aside := spares(name + asideEnd)[other]
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
	f.tellAside()
	return nil
}

// moveBack gives another program's sets the names that they had.
func (f *Firewall) moveBack(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.aside.names)) {
		if _, _, err := f.run.run(ctx, askTime, nil, f.ipset, "rename", f.aside.names[name], name); err != nil {
			errs = append(errs, fmt.Errorf("give another program's set its name back: %w", err))
		}
		delete(f.aside.names, name) // a second try has no better chance
	}
	f.tellAside()
	return errors.Join(errs...)
}

func (f *Firewall) tellAside() {
	if len(f.aside.names) == 0 {
		f.aside.gap.Store(nil)
		return
	}
	var renamed []string
	for _, name := range slices.Sorted(maps.Keys(f.aside.names)) {
		renamed = append(renamed, name+" to "+f.aside.names[name])
	}
	gap := "another program made sets with names of SikkerGuard; they are renamed (" + strings.Join(renamed, ", ") + ") until it stops"
	f.aside.gap.Store(&gap)
}
