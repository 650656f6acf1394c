package iptables

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// setKind is the type of a set of addresses and networks in ipset.
	setKind = "hash:net"
	// minSize and minElements are the smallest number of hash buckets and of elements of a set.
	// They are the defaults of ipset.
	minSize, minElements = 1024, 65536
	// busyTime is how long the swap or the destruction of a busy set is repeated. A set is busy
	// while another program lists it, or while the kernel frees a rule that looked it up.
	busyTime = 5 * time.Second
	// busyWait is the wait between two tries.
	busyWait = 20 * time.Millisecond
)

// setSpec is the desired state of a set.
type setSpec struct {
	name   string
	family family
	list   blocklist.Blocklist // its entries of the family are the elements
	count  int                 // of elements
	room   int                 // number of elements that the set is made for
}

// newSetSpec returns the set of the entries of a family.
func newSetSpec(set string, fam family, l blocklist.Blocklist) setSpec {
	s := setSpec{name: set, family: fam, list: l}
	for range s.elements() {
		s.count++
	}
	s.room = s.count
	return s
}

// elements yields the elements, in ascending order. ipset accepts no /0, so its two halves are
// elements.
func (s setSpec) elements() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for p := range s.family.prefixes(s.list) {
			if p.Bits() > 0 {
				if !yield(p) {
					return
				}
				continue
			}
			high := p.Addr().AsSlice()
			high[0] = 0x80
			addr, _ := netip.AddrFromSlice(high) // it has the length of an address
			if !yield(netip.PrefixFrom(p.Addr(), 1)) || !yield(netip.PrefixFrom(addr, 1)) {
				return
			}
		}
	}
}

// named returns the same set with another name.
func (s setSpec) named(set string) setSpec {
	s.name = set
	return s
}

// create returns the line that makes the set, with a size at which it need not grow. A bucket takes
// several elements.
func (s setSpec) create() string {
	buckets := minSize
	if s.room > 2*minSize {
		buckets = 1 << bits.Len(uint(s.room/2-1))
	}
	return fmt.Sprintf("create %s %s family %s hashsize %d maxelem %d",
		s.name, setKind, s.family.ipset, buckets, s.most())
}

// most returns the largest number of elements that the set takes. It is larger than room, because a
// set that changes by its elements gets the new ones before it loses old ones.
func (s setSpec) most() int { return max(2*s.room, minElements) }

// empty returns the line that makes an empty set.
func empty(set string, fam family) string {
	return newSetSpec(set, fam, blocklist.Blocklist{}).create() + "\n"
}

// setInfo describes a set without its elements.
type setInfo struct {
	kind    string // such as setKind
	family  string // inet or inet6
	entries int
	counted bool // the number of entries is known; old programs do not print it
	used    bool // rules or other sets refer to the set
}

// isOurs reports whether a set of this name is ours. A set of another kind is another program's. So
// is a temporary set in use, because our rules refer to none.
func (i setInfo) isOurs(name string) bool {
	fam, ok := familyOf(name)
	if i.used && slices.Contains(spares(fam.temporarySets()...), name) {
		return false
	}
	return ok && i.kind == fam.kindOf(name) && i.family == fam.ipset
}

// freeName returns name or the first of its spares that no set has. It is false if there is none.
func freeName(have map[string]setInfo, name string) (string, bool) {
	for _, n := range spares(name) {
		if _, taken := have[n]; !taken {
			return n, true
		}
	}
	return "", false
}

// freeNames returns an unused name for each of the temporary sets, by the usual name.
func freeNames(have map[string]setInfo, names []string) (map[string]string, error) {
	got := map[string]string{}
	for _, name := range names {
		free, ok := freeName(have, name)
		if !ok {
			return nil, fmt.Errorf("%w: there are sets %s to %s%d; "+
				"rename or destroy one (ipset rename %s another-name, ipset destroy %s)",
				ErrForeign, name, name, spareNames, name, name)
		}
		got[name] = free
	}
	return got, nil
}

// checkForeign returns an error that names the first of the sets that another program made.
func checkForeign(have map[string]setInfo, fam family, names ...string) error {
	for _, name := range names {
		if info, ok := have[name]; ok && !info.isOurs(name) {
			return fmt.Errorf("%w: set %s is of type %s and family %q, not %s and %s; "+
				"rename it (ipset rename %s another-name) or, if nothing needs it, destroy it (ipset destroy %s)",
				ErrForeign, name, info.kind, info.family, fam.kindOf(name), fam.ipset, name, name)
		}
	}
	return nil
}

// listSets returns all sets of the network namespace.
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

// elementsOf returns the elements of a set from the kernel. It is for small sets.
func (f *Firewall) elementsOf(ctx context.Context, set string) ([]netip.Prefix, error) {
	out, _, err := f.run.run(ctx, askTime, nil, f.ipset, "save", set)
	if err != nil {
		return nil, fmt.Errorf("read set %s: %w", set, err)
	}
	return parseElements(out, set), nil
}

func parseElements(out, set string) []netip.Prefix {
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

// swap exchanges the contents of two sets, between two packets.
func (f *Firewall) swap(ctx context.Context, a, b string) error {
	return f.retry(ctx, time.Now().Add(busyTime), "swap", a, b)
}

// destroy destroys the sets that exist and are ours.
func (f *Firewall) destroy(ctx context.Context, names ...string) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !have[n].isOurs(n) })
	if len(names) == 0 {
		return nil
	}
	// One run is enough as a rule. If it fails, each set is destroyed and retried alone.
	text := "destroy " + strings.Join(names, "\ndestroy ") + "\n"
	if err := f.restore(ctx, askTime, script(text)); err == nil || ctx.Err() != nil {
		return err
	}
	if have, err = f.listSets(ctx); err != nil {
		return err
	}
	var errs []error
	end := time.Now().Add(busyTime) // for all sets: as a rule the same program holds all of them
	for _, name := range names {
		if _, ok := have[name]; ok {
			errs = append(errs, f.retry(ctx, end, "destroy", name))
		}
	}
	return errors.Join(errs...)
}

// retry runs ipset until it succeeds, at least once, and until end.
func (f *Firewall) retry(ctx context.Context, end time.Time, args ...string) error {
	for {
		_, _, err := f.run.run(ctx, askTime, nil, f.ipset, args...)
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		time.Sleep(busyWait)
	}
}
