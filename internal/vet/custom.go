package vet

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// Custom vets the operator's own list: UTF-8 or UTF-16 text, which gzip may have compressed. A
// malformed line is left out and recorded in Malformed. So is an entry wider than a feed may have,
// because it would block a large part of the Internet. Special-purpose space is removed.
//
// The error is a read error, or a *RefusalError for a file that is no text, that has no valid line,
// that has more malformed lines than valid ones, or that covers more than a quarter of the
// addresses in use. A file that contains only a comment is accepted as an empty list: the comment
// shows that the operator intends it.
func Custom(r io.Reader) (Verdict, error) {
	r, err := plainText(r)
	if err != nil {
		return Verdict{}, err
	}
	v, b, err := read(r, parseNarrow)
	if err != nil {
		return Verdict{}, err
	}
	v.setList(b)
	if refusal := v.guardCustom(); refusal != nil {
		return Verdict{Lines: v.Lines, Malformed: v.Malformed, Bad: v.Bad}, refusal
	}
	return v, nil
}

// guardCustom returns the refusal of the operator's own list, or nil.
func (v *Verdict) guardCustom() *RefusalError {
	var refusal *RefusalError
	switch good := v.Lines - v.Bad; {
	case v.Lines == 0 && !v.commented:
		refusal = refuse(GuardEmpty,
			"the file is empty; to empty the list, write a file with only a comment, such as # none")
	case v.Bad > good:
		refusal = refuse(GuardMalformed, "%s that may be blocked; the first: %v",
			notAddresses(v.Bad, v.Lines), v.Malformed[0])
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

var errWide = fmt.Errorf("is wider than the widest network that may be blocked, /%d for IPv4 and /%d for IPv6",
	minBits4, minBits6)

// parseNarrow is blocklist.ParseBytes with an error for wide prefixes.
func parseNarrow(text []byte) (netip.Prefix, error) {
	p, err := blocklist.ParseBytes(text)
	if err == nil && isWide(p) {
		err = errWide
	}
	return p, err
}
