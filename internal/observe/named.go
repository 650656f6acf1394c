package observe

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

const (
	// maxLines is the number of log lines a window may take. One further line sums the rest.
	maxLines = 50
	// namedFor is how long a source counts as known after a log line has named it. Fifty lines every
	// ten seconds name fewer than maxNamed sources in that time.
	namedFor, maxNamed = 10 * time.Minute, 1 << 12
)

// named remembers the sources that log lines have named, so that a window names new ones first. It
// has two generations.
type named struct {
	young, old map[netip.Addr]bool
	turned     time.Time // when young was begun
}

// pick returns the hits that get a log line, at most maxLines. If there is a line for each, those of
// new sources come before those of known ones. Otherwise it returns one of each new source first,
// then one of each known source, then the others. Within each of these the order is that of hits.
func (n *named) pick(hits []sensor.Hit, now time.Time) []sensor.Hit {
	if now.Sub(n.turned) > namedFor || len(n.young) >= maxNamed {
		n.old, n.young, n.turned = n.young, map[netip.Addr]bool{}, now
	}
	var fresh, known, more []sensor.Hit
	sources := map[netip.Addr]bool{}
	for _, h := range hits {
		switch {
		case sources[h.Source] && len(hits) > maxLines:
			more = appendLine(more, h)
		case n.young[h.Source] || n.old[h.Source]:
			known = appendLine(known, h)
		default:
			fresh = appendLine(fresh, h)
		}
		if sources[h.Source] = true; len(fresh) == maxLines {
			break
		}
	}
	lines := slices.Concat(fresh, known, more)
	lines = lines[:min(len(lines), maxLines)]
	for _, h := range lines {
		n.young[h.Source] = true
	}
	return lines
}

// appendLine appends h to hits, unless these are as many as a window has lines.
func appendLine(hits []sensor.Hit, h sensor.Hit) []sensor.Hit {
	if len(hits) == maxLines {
		return hits
	}
	return append(hits, h)
}
