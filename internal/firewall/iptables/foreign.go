package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// asideEnd ends the new name of another program's set that had a name of ours. With it a name of
// ours still has at most 31 characters, the limit of ipset.
const asideEnd = "-other"

// renamedSet returns the new name of another program's set that had this name of ours, or "" if
// there is none. The kernel has the only record of it, so it outlives an agent that is killed. A
// set in use under such a name is not renamed: another program knows it by that name.
func renamedSet(have map[string]setInfo, name string) string {
	for _, aside := range slices.Backward(spares(name + asideEnd)) {
		if info, ok := have[aside]; ok && !info.used {
			return aside
		}
	}
	return ""
}

// asideGap is the gap that lists the renamed sets of other programs; nil if there are none.
type asideGap struct{ atomic.Pointer[string] }

// update sets the gap to the list of the renamed sets.
func (g *asideGap) update(have map[string]setInfo) {
	var renamed []string
	for _, name := range bothLookedUp() {
		if aside := renamedSet(have, name); aside != "" {
			renamed = append(renamed, name+" to "+aside)
		}
	}
	if len(renamed) == 0 {
		g.Store(nil)
		return
	}
	gap := "another program made sets with names of SikkerGuard; they are renamed (" +
		strings.Join(renamed, ", ") + ") until it stops"
	g.Store(&gap)
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
		if rerr := f.rename(ctx, have, name, aside); rerr != nil {
			return errors.Join(err, rerr)
		}
	}
	f.aside.update(have)
	return nil
}

// moveBack gives the renamed sets their old names, also those that a killed agent renamed.
func (f *Firewall) moveBack(ctx context.Context) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range bothLookedUp() {
		aside := renamedSet(have, name)
		if aside == "" {
			continue
		}
		if err := f.rename(ctx, have, aside, name); err != nil {
			errs = append(errs, fmt.Errorf("give another program's set its name back: %w", err))
		}
	}
	f.aside.update(have)
	return errors.Join(errs...)
}

// rename renames a set, also in have. While another program lists the set, the kernel refuses.
func (f *Firewall) rename(ctx context.Context, have map[string]setInfo, from, to string) error {
	if err := f.retry(ctx, time.Now().Add(busyTime), "rename", from, to); err != nil {
		return err
	}
	have[to] = have[from]
	delete(have, from)
	return nil
}
