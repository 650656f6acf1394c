package observe

import "time"

const (
	// keysShare bounds the time for readings of the kernel's counts by key and for the hits that come of
	// them: one that took long is followed by a pause. The kernel takes some 0.2 s for 65,000 keys.
	keysShare = 10
	// longestPause bounds that pause, so that an attack of hours does not slow the readings after it.
	longestPause = time.Minute
)

// pace spaces readings so that they take at most a keysShare-th of the time. A reading that cannot
// wait is paid for by the later ones.
type pace struct{ next time.Time }

// due reports whether a reading may begin.
func (p *pace) due(now time.Time) bool { return !now.Before(p.next) }

// took records a reading.
func (p *pace) took(begin, end time.Time) {
	if p.next.Before(begin) {
		p.next = begin
	}
	if p.next = p.next.Add(keysShare * end.Sub(begin)); p.next.After(end.Add(longestPause)) {
		p.next = end.Add(longestPause)
	}
}
