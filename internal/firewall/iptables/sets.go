package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// setKind is what ipset calls a set of addresses and networks.
	setKind = "hash:net"
	// minSize is the smallest number of hash buckets and of elements that a set is made for: those of ipset itself.
	minSize, minElements = 1024, 65536
	// busyTime is how long it is tried again to swap or destroy a set that is busy: somebody lists it, or a rule that looked
	// it up is still being taken apart.
	busyTime = 5 * time.Second
	// busyWait is the wait between two tries.
	busyWait = 20 * time.Millisecond
	// samples is how many elements of a set are looked up, spread evenly, the first and the last among them.
	samples = 16
)

// fill is what a set is to hold.
type setSpec struct {
	name     string
	family   family
	elements []netip.Prefix // canonical, ascending, disjoint
}

// newFill makes a fill of prefixes of the family. A set takes no /0: its two halves stand for it.
func newSetSpec(set string, fam family, ps []netip.Prefix) setSpec {
	if len(ps) == 1 && ps[0].Bits() == 0 {
		low := netip.PrefixFrom(ps[0].Addr(), 1)
		high := ps[0].Addr().AsSlice()
		high[0] = 0x80
		addr, _ := netip.AddrFromSlice(high) // it is as long as the address it came from
		ps = []netip.Prefix{low, netip.PrefixFrom(addr, 1)}
	}
	return setSpec{name: set, family: fam, elements: ps}
}

// named is the same under another name.
func (f setSpec) named(set string) setSpec {
	f.name = set
	return f
}

// create is the line that makes the set, sized so that it need not grow. A bucket takes several elements.
func (f setSpec) create() string {
	n := len(f.elements)
	buckets := minSize
	if n > 2*minSize {
		buckets = 1 << bits.Len(uint(n/2-1))
	}
	return fmt.Sprintf("create %s %s family %s hashsize %d maxelem %d\n", f.name, setKind, f.family.ipset, buckets, max(n, minElements))
}

// script is what `ipset restore` reads to make and fill these sets: one line a set and one an element, each of a constant
// name and a number.
func script(fills ...setSpec) []byte {
	size := 0
	for _, spec := range fills {
		size += 200 + len(spec.elements)*(len("add ")+len(spec.name)+len(" 255.255.255.255/32\n"))
	}
	text := bytes.NewBuffer(make([]byte, 0, size))
	for _, spec := range fills {
		text.WriteString(spec.create())
		line := []byte("add " + spec.name + " ")
		head := len(line)
		for _, p := range spec.elements {
			line = append(p.AppendTo(line[:head]), '\n')
			text.Write(line)
		}
	}
	return text.Bytes()
}

// setInfo is what the kernel tells of a set without its elements.
type setInfo struct {
	kind    string // setKind, for one
	family  string // inet or inet6
	entries int
	counted bool // the program told the number of entries: old ones do not
	used    bool // rules or other sets refer to it
}

// own reports whether a set of this name is ours. One of another kind is another program's, and so
// is a temporary one that is used: nothing of ours refers to those.
func (i setInfo) isOurs(name string) bool {
	fam, ok := familyOf(name)
	if i.used && slices.Contains(spares(fam.temporarySets()...), name) {
		return false
	}
	return ok && i.kind == setKind && i.family == fam.ipset
}

// free returns a name for each of these temporary sets that no set has, by the usual name.
func freeNames(have map[string]setInfo, names []string) (map[string]string, error) {
	got := map[string]string{}
	for _, name := range names {
		i := slices.IndexFunc(spares(name), func(n string) bool { _, ok := have[n]; return !ok })
		if i < 0 {
			return nil, fmt.Errorf("%w: there are sets %s to %s%d; rename or destroy one (ipset rename %s another-name, ipset destroy %s)",
				ErrForeign, name, name, spareNames, name, name)
		}
		got[name] = spares(name)[i]
	}
	return got, nil
}

// foreign returns an error that names the first of these sets, of the family, that another program
// made.
func checkForeign(have map[string]setInfo, fam family, names ...string) error {
	for _, name := range names {
		if info, ok := have[name]; ok && !info.isOurs(name) {
			return fmt.Errorf("%w: set %s is of type %s and family %q, not %s and %s; rename it (ipset rename %s another-name) or, if nothing needs it, destroy it (ipset destroy %s)",
				ErrForeign, name, info.kind, info.family, setKind, fam.ipset, name, name)
		}
	}
	return nil
}

// sets are all sets of the network namespace.
func (f *Firewall) listSets(ctx context.Context) (map[string]setInfo, error) {
	out, _, err := f.run.run(ctx, askTime, nil, f.ipset, "list", "-t")
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	return parseSets(out), nil
}

func parseSets(out string) map[string]setInfo {
	sets := map[string]setInfo{}
	name := ""
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "Name" {
			name = value
			sets[name] = setInfo{}
			continue
		}
		info := sets[name]
		switch key {
		case "Type":
			info.kind = value
		case "Header":
			if words := strings.Fields(value); len(words) > 1 && words[0] == "family" {
				info.family = words[1]
			}
		case "References":
			info.used = value != "0"
		case "Number of entries":
			n, err := strconv.Atoi(value)
			info.entries, info.counted = n, err == nil
		}
		sets[name] = info
	}
	delete(sets, "")
	return sets
}

// restore feeds `ipset restore`.
func (f *Firewall) restore(ctx context.Context, limit time.Duration, text []byte) error {
	_, _, err := f.run.run(ctx, limit, text, f.ipset, "restore")
	return err
}

// members are the elements of a set as the kernel has them. Only small sets are asked for them.
func (f *Firewall) elementsOf(ctx context.Context, set string) ([]netip.Prefix, error) {
	out, _, err := f.run.run(ctx, askTime, nil, f.ipset, "save", set)
	if err != nil {
		return nil, fmt.Errorf("read set %s: %w", set, err)
	}
	return parseMembers(out, set), nil
}

func parseMembers(out, set string) []netip.Prefix {
	var ps []netip.Prefix
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "add" || words[1] != set {
			continue
		}
		if p, err := blocklist.Parse(words[2]); err == nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// swap exchanges what two sets hold, in one instant.
func (f *Firewall) swap(ctx context.Context, a, b string) error {
	return f.retry(ctx, time.Now().Add(busyTime), "swap", a, b)
}

// destroy destroys these sets, those of them that are there and ours.
func (f *Firewall) destroy(ctx context.Context, names ...string) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !have[n].isOurs(n) })
	if len(names) == 0 {
		return nil
	}
	// Mostly one run does it. One at a time, each may be tried again.
	if err := f.restore(ctx, askTime, []byte("destroy "+strings.Join(names, "\ndestroy ")+"\n")); err == nil || ctx.Err() != nil {
		return err
	}
	if have, err = f.listSets(ctx); err != nil {
		return err
	}
	var errs []error
	end := time.Now().Add(busyTime) // for all of them: what holds one mostly holds the others
	for _, name := range names {
		if _, ok := have[name]; ok {
			errs = append(errs, f.retry(ctx, end, "destroy", name))
		}
	}
	return errors.Join(errs...)
}

// persist runs ipset until it succeeds, once at least and until end.
func (f *Firewall) retry(ctx context.Context, end time.Time, args ...string) error {
	for {
		_, _, err := f.run.run(ctx, askTime, nil, f.ipset, args...)
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		time.Sleep(busyWait)
	}
}

// sample looks up some elements of each set, in one run of the program, and says how many.
func (f *Firewall) sample(ctx context.Context, fills []setSpec) (int, error) {
	var text strings.Builder
	want := map[string]int{}
	for _, spec := range fills {
		step := max(1, (len(spec.elements)-1)/(samples-1))
		for i, p := range spec.elements {
			if i%step == 0 || i == len(spec.elements)-1 {
				fmt.Fprintf(&text, "test %s %v\n", spec.name, p)
				want[spec.name]++
			}
		}
	}
	if text.Len() == 0 {
		return 0, nil
	}
	// The program answers on standard error, and goes on after an answer of no.
	stdout, stderr, err := f.run.run(ctx, askTime, []byte(text.String()+"quit\n"), f.ipset, "-")
	if err != nil {
		return 0, fmt.Errorf("look up elements: %w", err)
	}
	n := 0
	for _, spec := range fills {
		found := strings.Count(stdout+stderr, " is in set "+spec.name+".\n")
		if found != want[spec.name] {
			return n, mismatch("set %s has %d of %d sampled elements", spec.name, found, want[spec.name])
		}
		n += found
	}
	return n, nil
}
