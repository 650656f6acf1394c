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
	// maxPublicPercent is how much of the address space in use a feed may cover, in each family, and maxCustomPercent how
	// much the operator's own list may: some block whole countries.
	maxPublicPercent, maxCustomPercent = 10, 25
	// vastPercent bounds the lists that the operator may accept. One that covers more of the address space in use cuts the
	// host off from a good part of the Internet.
	vastPercent = 25
)

// Guard names the check that refused a list. The names are stable: they label a metric.
type Guard string

// The guards, in the order in which they look.
const (
	GuardEntries   Guard = "entries"   // more than MaxEntries lines
	GuardMalformed Guard = "malformed" // more than 1% of the lines are no address
	GuardEmpty     Guard = "empty"     // nothing left to block
	GuardWidth     Guard = "width"     // an entry wider than /8 (IPv4) or /16 (IPv6)
	GuardCoverage  Guard = "coverage"  // more than 10% of public IPv4, or of the IPv6 in use
	GuardGrowth    Guard = "growth"    // more than twice the entries of the largest list of the last days, for the first time
	GuardShrink    Guard = "shrink"    // less than half the entries of the list before, for the first time
)

// Overrulable reports whether the operator may accept a list that the guard refused, unless it is vast. A body that is not a
// list cannot be accepted, neither can a list that would not fit into memory.
func (g Guard) Overrulable() bool { return g != GuardEntries && g != GuardMalformed }

// Options are what a list is measured against. The zero value measures it against nothing but itself.
type Options struct {
	// Baseline is how many entries the last list had that was accepted for the same request; 0 when there was none.
	Baseline int
	// Largest is how many entries the largest list of the last days had; 0 if there was none larger than Baseline. A list that
	// shrank and comes back is not one that grew.
	Largest int
	// Shrunk is how many entries the list had that GuardShrink refused last, and Grown the one that GuardGrowth refused last; 0
	// for none since a list was accepted. A later list of about that size confirms it: a change that stays is the feed's new
	// size, as after a change of the tier. So neither guard refuses for ever.
	Shrunk, Grown int
	// Overrule accepts a list that an overrulable guard would refuse.
	Overrule bool
}

// RefusalError is a list refused whole. Nothing of it may be enforced.
type RefusalError struct {
	Guard   Guard
	Entries int    // of the refused list, where it got as far as being counted
	Reason  string // what was seen and what is allowed, with the numbers; text from the list is quoted
	Vast    bool   // the list would block a good part of the Internet
	// List is the refused list, for an operator who accepts it. It is empty unless the refusal is overrulable.
	List blocklist.Blocklist
	// Aside names the list where the caller has kept it aside; empty if it has not.
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
		text += "; it would block a good part of the Internet and cannot be accepted"
	case r.Overrulable():
		if r.Aside != "" {
			text += "; it is kept aside as " + r.Aside
		}
		text += "; if it is right, `sikkerguard pull --accept` has it enforced"
		if r.Guard == GuardEmpty {
			text += ", and then nothing of the API's list is blocked"
		}
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

	commented bool         // there is a comment
	listed    int          // entries before special-purpose space was cut away
	wide      netip.Prefix // an entry wider than a feed may have, as it was listed; not valid when there is none
}

// maxKept is how many malformed lines a Verdict keeps to show.
const maxKept = 100

// Vet reads a pulled list, an address or network a line, and returns what of it may be enforced. Comments (# or ;) and
// blank lines are skipped. The error is a *RefusalError when a guard spoke, else one of reading.
func Vet(r io.Reader, o Options) (Verdict, error) {
	v, ps, err := read(r, blocklist.Parse)
	if err != nil {
		return Verdict{}, err
	}
	if v.Bad*100 > v.Lines*maxMalformedPercent {
		return Verdict{}, refuse(GuardMalformed, "this is not a list (%s; an error page?); the first: %v",
			notAddresses(v.Bad, v.Lines), v.Malformed[0])
	}
	v.settle(ps)
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

// guard is what speaks against the list as a whole, nil for nothing.
func (v *Verdict) guard(o Options) *RefusalError {
	n := v.List.Len()
	if n == 0 {
		return refuse(GuardEmpty, "it has %s and no address that may be blocked", lines(v.Lines))
	}
	if v.wide.IsValid() {
		return refuse(GuardWidth, "it holds %v; the widest that may be blocked is /%d for IPv4 and /%d for IPv6", v.wide, minBits4, minBits6)
	}
	if refusal := v.covers(maxPublicPercent); refusal != nil {
		return refusal
	}
	return guardSize(n, min(n, v.listed), o)
}

// guardSize compares the number of entries with those of the lists before. It returns nil if nothing speaks against it. A wide
// entry around special-purpose space becomes many; listed counts it as the one that it was, so that it is no growth.
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
		return refuse(GuardGrowth, "%s, %d %s: a list more than twice as long is enforced once a second pull gives it again",
			blocklist.Entries(n), largest, when)
	case n*maxShrink < o.Baseline && (o.Shrunk == 0 || n*maxShrink < o.Shrunk):
		return refuse(GuardShrink, "%s, %d before: a list less than half as long is enforced once a second pull gives it again",
			blocklist.Entries(n), o.Baseline)
	}
	return nil
}

// lines returns n with its noun.
func lines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}

// notAddresses returns how many of all lines are bad, as a sentence.
func notAddresses(bad, all int) string {
	if bad == 1 {
		return fmt.Sprintf("1 of %s is not an address", lines(all))
	}
	return fmt.Sprintf("%d of %s are not addresses", bad, lines(all))
}

// vast reports whether the list would block a good part of the Internet.
func (v *Verdict) vast() bool { return v.covers(vastPercent) != nil }

// covers returns the refusal of a list that covers more than that share of the public addresses, nil for one that does
// not.
func (v *Verdict) covers(percent int) *RefusalError {
	v4, v6 := v.List.Coverage()
	switch most := float64(percent) / 100; {
	case v4 > most:
		return refuse(GuardCoverage, "it covers %.0f%% of the public IPv4 addresses, at most %d%% may be", min(v4, 1)*100, percent)
	case v6 > most:
		return refuse(GuardCoverage, "it covers %.0f%% of the IPv6 addresses in use, at most %d%% may be", min(v6, 1)*100, percent)
	}
	return nil
}

// isWide reports whether a list may not have an entry, because it holds more than a /8 of public IPv4, or a /16 of IPv6. An
// IPv6 network that stands for IPv4 addresses, as in NAT64, is as wide as the network that it stands for.
func isWide(p netip.Prefix) bool {
	v4, embeds := blocklist.Embedded(p)
	short := embeds && v4.Bits() < minBits4 || p.Addr().Is4() && p.Bits() < minBits4 || p.Addr().Is6() && p.Bits() < minBits6
	if !short {
		return false
	}
	public, _ := blocklist.New([]netip.Prefix{p}).Blockable()
	addresses, networks := public.Size()
	return addresses > 1<<(32-minBits4) || networks > 1<<(64-minBits6)
}

// read parses every line.
func read(r io.Reader, parse func(string) (netip.Prefix, error)) (Verdict, []netip.Prefix, error) {
	var (
		v  Verdict
		ps []netip.Prefix
	)
	var err error
	v.commented, err = eachLine(r, parse, func(p netip.Prefix, bad *LineError) error {
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
	v.Repeated, v.listed = n-list.Len(), list.Len()
	v.List, v.Special = list.Blockable()
	for p := range list.All() {
		if isWide(p) {
			v.wide = p
			return
		}
	}
}
