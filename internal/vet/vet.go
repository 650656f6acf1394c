package vet

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// MaxEntries is the most lines with an address that a list may have. The largest tier of
	// SikkerAPI has 350,000. With MaxEntries lines, vetting takes about 50 MB and the kernel some
	// 200 MB, which a small server can still afford.
	MaxEntries = 1_000_000
	// maxMalformedPercent is the share of lines that may be malformed. Above it the body is not a
	// list but an error page, another format or a damaged file.
	maxMalformedPercent = 1
	// minBits4 and minBits6 are the prefix lengths of the widest entries that a feed may have. No
	// wider network is malicious as a whole.
	minBits4, minBits6 = 8, 16
	// maxGrowth and maxShrink are the factors by which a list may grow or shrink from one pull to
	// the next.
	maxGrowth, maxShrink = 2, 2
	// maxPublicPercent is the share of the address space in use that a feed may cover, in each
	// family. maxCustomPercent is the share for the operator's own list: some operators block whole
	// countries.
	maxPublicPercent, maxCustomPercent = 10, 25
	// vastPercent bounds the lists that the operator may accept. A list that covers more of the
	// address space in use cuts the host off from a large part of the Internet.
	vastPercent = 25
)

// Guard is the name of a check that refuses lists. The names are stable, because they are labels of
// a metric.
type Guard string

// Guards, in the order in which they check.
const (
	GuardEntries   Guard = "entries"   // more than MaxEntries lines
	GuardMalformed Guard = "malformed" // more than 1% of the lines are no address
	GuardEmpty     Guard = "empty"     // no entry that may be blocked
	GuardWidth     Guard = "width"     // an entry wider than /8 (IPv4) or /16 (IPv6)
	GuardCoverage  Guard = "coverage"  // more than 10% of public IPv4, or of the IPv6 in use
	GuardGrowth    Guard = "growth"    // first list with over twice the entries of the largest of the last days
	GuardShrink    Guard = "shrink"    // first list with less than half the entries of the previous list
)

// Overrulable reports whether the operator may accept a list that the guard refused, unless the
// list is vast. A body that is not a list cannot be accepted, nor can a list that would not fit
// into memory.
func (g Guard) Overrulable() bool { return g != GuardEntries && g != GuardMalformed }

// Options holds the sizes of earlier lists with which Vet compares a list. With the zero value it
// makes no comparison.
type Options struct {
	// Baseline is the number of entries of the last list that was accepted for the same request; 0
	// if there was none.
	Baseline int
	// Largest is the number of entries of the largest list of the last days; 0 if none was larger
	// than Baseline. A list that shrank and returns to its old size has not grown.
	Largest int
	// Shrunk and Grown are the numbers of entries of the lists that GuardShrink and GuardGrowth
	// refused last; 0 if none was refused since a list was accepted. A later list of about that
	// size confirms the change: it is the feed's new size, for example after a change of the tier.
	// So neither guard refuses for ever.
	Shrunk, Grown int
	// Overrule accepts a list that an overrulable guard would refuse.
	Overrule bool
}

// RefusalError is the refusal of a whole list. None of its entries may be enforced.
type RefusalError struct {
	Guard   Guard
	Entries int    // entries of the refused list; 0 if it was refused before they were counted
	Reason  string // the finding and the limit, with the numbers; text from the list is quoted
	Vast    bool   // the list would block a large part of the Internet
	// List is the refused list, for an operator who accepts it. It is empty unless the refusal is
	// overrulable.
	List blocklist.Blocklist
	// Aside is the caller's name for the list that it has set aside; empty if it has not.
	Aside string

	custom bool // the list is the operator's own
}

// Overrulable reports whether the operator may accept the list.
func (r *RefusalError) Overrulable() bool { return r.Guard.Overrulable() && !r.Vast }

func (r *RefusalError) Error() string {
	if r.custom {
		return r.Reason
	}
	text := fmt.Sprintf("list refused (%s guard): %s", r.Guard, r.Reason)
	switch {
	case r.Vast:
		text += "; it would block a large part of the Internet and cannot be accepted"
	case r.Overrulable():
		if r.Aside != "" {
			text += "; it is set aside as " + r.Aside
		}
		text += "; if it is right, `sikkerguard pull --accept` enforces it"
		if r.Guard == GuardEmpty {
			text += ", and then no entry of the API's list is blocked"
		}
	}
	return text
}

func refuse(g Guard, format string, args ...any) *RefusalError {
	return &RefusalError{Guard: g, Reason: fmt.Sprintf(format, args...)}
}

// Verdict is an accepted list with the counts of its vetting.
type Verdict struct {
	List      blocklist.Blocklist
	Lines     int          // lines that are neither blank nor only a comment
	Malformed []*LineError // the first hundred malformed lines
	Bad       int          // number of malformed lines
	Repeated  int          // lines that another line covers
	Special   int          // entries that lost all or a part to special-purpose space

	commented bool         // the list has a comment
	listed    int          // entries before special-purpose space was removed
	wide      netip.Prefix // an entry wider than a feed may have, as listed; invalid if there is none
}

// maxMalformed is the most malformed lines that a Verdict stores.
const maxMalformed = 100

// Vet vets a pulled list, one address or network per line, and returns the entries that may be
// enforced. Comments and blank lines are skipped. The error is a *RefusalError if a guard refuses
// the list, or a read error.
func Vet(r io.Reader, o Options) (Verdict, error) {
	v, b, err := read(r, blocklist.ParseBytes)
	if err != nil {
		return Verdict{}, err
	}
	if v.Bad*100 > v.Lines*maxMalformedPercent {
		return Verdict{}, refuse(GuardMalformed, "this is not a list (%s; an error page?); the first: %v",
			notAddresses(v.Bad, v.Lines), v.Malformed[0])
	}
	v.setList(b)
	refusal := v.guard(o)
	if refusal == nil {
		return v, nil
	}
	refusal.Entries, refusal.Vast = v.List.Len(), v.vast()
	switch {
	case !refusal.Overrulable():
		return Verdict{}, refusal
	case o.Overrule:
		return v, nil
	}
	refusal.List = v.List
	return Verdict{}, refusal
}

// guard returns the refusal of the list as a whole, or nil.
func (v *Verdict) guard(o Options) *RefusalError {
	n := v.List.Len()
	if n == 0 {
		return refuse(GuardEmpty, "it has %s and no address that may be blocked", lines(v.Lines))
	}
	if v.wide.IsValid() {
		return refuse(GuardWidth, "it contains %v; the widest network that may be blocked is "+
			"/%d for IPv4 and /%d for IPv6", v.wide, minBits4, minBits6)
	}
	if refusal := v.covers(maxPublicPercent); refusal != nil {
		return refusal
	}
	return guardSize(n, min(n, v.listed), o)
}

// guardSize compares the number of entries with those of earlier lists, and returns the refusal or
// nil. A wide entry around special-purpose space may become many; listed counts it as one, so that
// it is no growth.
func guardSize(n, listed int, o Options) *RefusalError {
	if o.Baseline == 0 {
		return nil
	}
	largest, when := o.Baseline, "before"
	if o.Largest > largest {
		largest, when = o.Largest, "at most in the last days"
	}
	switch {
	case listed > maxGrowth*largest && listed > maxGrowth*o.Grown:
		return refuse(GuardGrowth, "%s, %d %s: "+
			"a list more than twice as long is enforced once a second pull confirms it",
			blocklist.Entries(n), largest, when)
	case n*maxShrink < o.Baseline && (o.Shrunk == 0 || n*maxShrink < o.Shrunk):
		return refuse(GuardShrink, "%s, %d before: "+
			"a list less than half as long is enforced once a second pull confirms it",
			blocklist.Entries(n), o.Baseline)
	}
	return nil
}

// lines returns n with its noun: "1 line", "2 lines".
func lines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}

// notAddresses returns a sentence about the share of lines that are no addresses.
func notAddresses(bad, all int) string {
	if bad == 1 {
		return fmt.Sprintf("1 of %s is not an address", lines(all))
	}
	return fmt.Sprintf("%d of %s are not addresses", bad, lines(all))
}

// vast reports whether the list would block a large part of the Internet.
func (v *Verdict) vast() bool { return v.covers(vastPercent) != nil }

// covers returns the refusal of a list that covers more than that share of the public addresses, or
// nil.
func (v *Verdict) covers(percent int) *RefusalError {
	v4, v6 := v.List.Coverage()
	switch most := float64(percent) / 100; {
	case v4 > most:
		return refuse(GuardCoverage, "it covers %.0f%% of the public IPv4 addresses; the limit is %d%%",
			min(v4, 1)*100, percent)
	case v6 > most:
		return refuse(GuardCoverage, "it covers %.0f%% of the IPv6 addresses in use; the limit is %d%%",
			min(v6, 1)*100, percent)
	}
	return nil
}

// isWide reports whether a prefix is wider than a list may have: whether it contains more than a /8
// of public IPv4 addresses, or more than a /16 of IPv6. An IPv6 network that represents IPv4
// addresses, as in NAT64, is as wide as the IPv4 network.
func isWide(p netip.Prefix) bool {
	v4, embeds := blocklist.Embedded(p)
	short := embeds && v4.Bits() < minBits4 ||
		p.Addr().Is4() && p.Bits() < minBits4 || p.Addr().Is6() && p.Bits() < minBits6
	if !short {
		return false
	}
	public, _ := blocklist.New([]netip.Prefix{p}).Blockable()
	addresses, networks := public.Size()
	return addresses > 1<<(32-minBits4) || networks > 1<<(64-minBits6)
}

// read parses every line of r. It allocates nothing for a line, except for the first malformed ones.
func read(r io.Reader, parse func([]byte) (netip.Prefix, error)) (Verdict, *blocklist.Builder, error) {
	var (
		v   Verdict
		b   blocklist.Builder
		err error
	)
	v.commented, err = eachLine(r, func(n int, text []byte, bad error) error {
		v.Lines++
		p, err := parse(text)
		if bad == nil {
			bad = err
		}
		if bad != nil {
			v.addMalformed(n, text, bad)
			return nil
		}
		if b.Add(p); b.Len() > MaxEntries {
			return refuse(GuardEntries, "it has more than %d entries", MaxEntries)
		}
		return nil
	})
	return v, &b, err
}

// addMalformed counts a malformed line, and stores it if it is among the first.
func (v *Verdict) addMalformed(n int, text []byte, err error) {
	v.Bad++
	if len(v.Malformed) < maxMalformed {
		bad := &LineError{Line: n, Text: string(text[:min(len(text), maxShown)]), Err: err}
		v.Malformed = append(v.Malformed, bad)
	}
}

// setList sets the list to the entries of b without special-purpose space, and the counts.
func (v *Verdict) setList(b *blocklist.Builder) {
	n := b.Len()
	list := b.List()
	v.Repeated, v.listed = n-list.Len(), list.Len()
	v.List, v.Special = list.Blockable()
	for p := range list.All() {
		if isWide(p) {
			v.wide = p
			return
		}
	}
}
