package vet

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// Custom reads the operator's own list, which may be UTF-8 or UTF-16 text, also compressed by gzip.
// A bad line is left out and named in Malformed. A line that is wider than what a feed may have is
// bad too: it would block a good part of the Internet. Special-purpose space is cut away.
//
// The error is one of reading, or a *RefusalError: for a file that is no text, that has no good
// line, that has more bad lines than good ones, or that covers more than a quarter of the addresses
// in use. A file that holds nothing but a comment is accepted as an empty list: the operator says
// so on purpose.
func Custom(r io.Reader) (Verdict, error) {
	r, err := plainText(r)
	if err != nil {
		return Verdict{}, err
	}
	v, ps, err := read(r, parseNarrow)
	if err != nil {
		return Verdict{}, err
	}
	v.settle(ps)
	if refusal := v.guardCustom(); refusal != nil {
		return Verdict{Lines: v.Lines, Malformed: v.Malformed, Bad: v.Bad}, refusal
	}
	return v, nil
}

// guardCustom returns the reason why the operator's own list is refused, nil for none.
func (v *Verdict) guardCustom() *RefusalError {
	var refusal *RefusalError
	switch good := v.Lines - v.Bad; {
	case v.Lines == 0 && !v.commented:
		refusal = refuse(GuardEmpty, "the file is empty; a file with nothing but a comment, such as # none, empties the list")
	case v.Bad > good:
		refusal = refuse(GuardMalformed, "%s that may be blocked; the first: %v", notAddresses(v.Bad, v.Lines), v.Malformed[0])
	case v.Lines > 0 && v.List.Len() == 0:
		refusal = refuse(GuardEmpty, "the file has %s and no address that may be blocked", lines(v.Lines))
	default:
		refusal = v.covers(maxCustomPercent)
	}
	if refusal != nil {
		refusal.Entries, refusal.custom = v.List.Len(), true
	}
	return refusal
}

var errWide = fmt.Errorf("is wider than what may be blocked, /%d for IPv4 and /%d for IPv6", minBits4, minBits6)

// parseNarrow is blocklist.Parse for a list whose wide lines are bad lines.
func parseNarrow(s string) (netip.Prefix, error) {
	p, err := blocklist.Parse(s)
	if err == nil && isWide(p) {
		err = errWide
	}
	return p, err
}
