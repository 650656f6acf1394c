package vet

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// MaxEntries is how many lines with an address a list may have. The largest tier of SikkerAPI gives 350,000; at this
	// many the vetting takes about 100 MB and the kernel some 200 MB, which a small server still stands.
	MaxEntries = 1_000_000
	// maxMalformedPercent is the share of lines that may be malformed. Above it the body is something else: an error page,
	// another format, a damaged file.
	maxMalformedPercent = 1
	// minBits4 and minBits6 are the widest entries that a feed may have. Nothing malicious fills a wider one.
	minBits4, minBits6 = 8, 16
	// maxGrowth and maxShrink are by how many times a list may grow or shrink from one pull to the next.
	maxGrowth, maxShrink = 2, 2
	// maxPublicPercent is how much of the public IPv4 space a feed may cover.
	maxPublicPercent = 10
)

// Guard names the check that refused a list. The names are stable: they label a metric.
type Guard string

// The guards, in the order in which they look.
const (
	GuardEntries   Guard = "entries"   // more than MaxEntries lines
	GuardMalformed Guard = "malformed" // more than 1% of the lines are no address
	GuardEmpty     Guard = "empty"     // nothing left to block
	GuardWidth     Guard = "width"     // an entry wider than /8 (IPv4) or /16 (IPv6)
	GuardCoverage  Guard = "coverage"  // more than 10% of public IPv4
	GuardGrowth    Guard = "growth"    // more than twice the entries of the list before
	GuardShrink    Guard = "shrink"    // less than half the entries of the list before, for the first time
)

// Overrulable says whether the operator may have a list enforced that the guard refused. What is no list is not, and
// neither is one that would not fit into memory.
func (g Guard) Overrulable() bool { return g != GuardEntries && g != GuardMalformed }

// Options are what a list is measured against. The zero value measures it against nothing but itself.
type Options struct {
	// Baseline is how many entries the last list had that was accepted for the same request; 0 when there was none.
	Baseline int
	// Shrunk is how many entries the list had that GuardShrink refused at the pull before, 0 when it did not. One of about
	// that size, or more, confirms that the list did shrink.
	Shrunk int
	// Overrule accepts what an overrulable guard would refuse.
	Overrule bool
}

// RefusalError is a list refused whole. Nothing of it may be enforced.
type RefusalError struct {
	Guard   Guard
	Entries int    // of the refused list, where it got as far as being counted
	Reason  string // what was seen and what is allowed, with the numbers; text from the list is quoted
}

func (r *RefusalError) Error() string {
	text := fmt.Sprintf("list refused (%s guard): %s", r.Guard, r.Reason)
	if r.Guard.Overrulable() {
		text += "; if it is right, `sikkerguard pull --accept` has it enforced once"
	}
	return text
}

func refuse(g Guard, format string, args ...any) *RefusalError {
	return &RefusalError{Guard: g, Reason: fmt.Sprintf(format, args...)}
}

// Verdict is an accepted list and what was done to it.
type Verdict struct {
	List      blocklist.Blocklist
	Lines     int          // lines that are neither blank nor a comment
	Malformed []*LineError // lines that are no address, the first hundred of them
	Bad       int          // how many lines are malformed
	Repeated  int          // lines that another line already covers
	Special   int          // entries that lay in special-purpose space, wholly or in part, which was cut away

	wide netip.Prefix // an entry wider than a feed may have, as it was listed; not valid when there is none
}

// maxKept is how many malformed lines a Verdict keeps to show.
const maxKept = 100

// Vet reads a pulled list, an address or network a line, and returns what of it may be enforced. Comments (# or ;) and
// blank lines are skipped. The error is a *RefusalError when a guard spoke, else one of reading.
func Vet(r io.Reader, o Options) (Verdict, error) {
	v, ps, err := read(r, parse)
	if err != nil {
		return Verdict{}, err
	}
	if v.Bad*100 > v.Lines*maxMalformedPercent {
		return Verdict{}, refuse(GuardMalformed, "%d of %d lines are no address, at most %d%% may be; the first: %v",
			v.Bad, v.Lines, maxMalformedPercent, v.Malformed[0])
	}
	v.settle(ps)
	if refusal := v.guard(o); refusal != nil && !o.Overrule {
		refusal.Entries = v.List.Len()
		return Verdict{}, refusal
	}
	return v, nil
}

// guard is what speaks against the list as a whole, nil for nothing.
func (v *Verdict) guard(o Options) *RefusalError {
	n := v.List.Len()
	if n == 0 {
		return refuse(GuardEmpty, "it has %d lines and no address that may be blocked", v.Lines)
	}
	if v.wide.IsValid() {
		return refuse(GuardWidth, "it holds %v; the widest that may be blocked is /%d for IPv4 and /%d for IPv6", v.wide, minBits4, minBits6)
	}
	public := uint64(1)<<32 - addresses4(Special())
	if covered := addresses4(v.List); covered*100 > public*maxPublicPercent {
		return refuse(GuardCoverage, "it covers %d%% of the public IPv4 addresses, at most %d%% may be", covered*100/public, maxPublicPercent)
	}
	switch {
	case o.Baseline == 0:
	case n > maxGrowth*o.Baseline:
		return refuse(GuardGrowth, "it has %d entries, the list before had %d, and at most %d times as many are taken", n, o.Baseline, maxGrowth)
	case n*maxShrink < o.Baseline && (o.Shrunk == 0 || n*maxShrink < o.Shrunk):
		return refuse(GuardShrink, "it has %d entries, the list before had %d: less than half is taken when the next pull confirms it",
			n, o.Baseline)
	}
	return nil
}

// Custom reads the operator's own list. A bad line is left out and named in Malformed, and the others count: the operator
// knows what the file is for, so it is not refused for its content. A line that is wider than what a feed may have is bad too:
// it would block a good part of the Internet. Special-purpose space is cut away here as well. The error is one of reading, or
// a *RefusalError for more than MaxEntries lines.
func Custom(r io.Reader) (Verdict, error) {
	v, ps, err := read(r, parseNarrow)
	if err != nil {
		return Verdict{}, err
	}
	v.settle(ps)
	return v, nil
}

// isWide says whether a feed may not have an entry.
func isWide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < minBits4 || p.Addr().Is6() && p.Bits() < minBits6
}

var errWide = fmt.Errorf("is wider than what may be blocked, /%d for IPv4 and /%d for IPv6", minBits4, minBits6)

// parseNarrow is parse for a list whose wide lines are bad lines.
func parseNarrow(s string) (netip.Prefix, error) {
	p, err := parse(s)
	if err == nil && isWide(p) {
		err = errWide
	}
	return p, err
}

// read parses every line.
func read(r io.Reader, parse func(string) (netip.Prefix, error)) (Verdict, []netip.Prefix, error) {
	var (
		v  Verdict
		ps []netip.Prefix
	)
	err := eachLine(r, parse, func(p netip.Prefix, bad *LineError) error {
		v.Lines++
		switch {
		case bad == nil:
			ps = append(ps, p)
		case len(v.Malformed) < maxKept:
			v.Malformed = append(v.Malformed, bad)
			fallthrough
		default:
			v.Bad++
		}
		if len(ps) > MaxEntries {
			return refuse(GuardEntries, "it has more than %d entries", MaxEntries)
		}
		return nil
	})
	return v, ps, err
}

// settle makes the list of ps, less special-purpose space.
func (v *Verdict) settle(ps []netip.Prefix) {
	n := len(ps)
	list := blocklist.New(ps)
	v.Repeated = n - list.Len()
	special := Special()
	for range list.Overlapping(special) {
		v.Special++
	}
	v.List = list.Without(special)
	for p := range list.All() {
		if !isWide(p) {
			continue
		}
		for left := range blocklist.New([]netip.Prefix{p}).Without(special).All() {
			if isWide(left) { // what is not cut away of it
				v.wide = p
				return
			}
		}
	}
}

// addresses4 is how many IPv4 addresses a list covers.
func addresses4(list blocklist.Blocklist) uint64 {
	var n uint64
	for p := range list.V4() {
		n += 1 << (32 - p.Bits())
	}
	return n
}
