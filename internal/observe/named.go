package observe

import (
	"net/netip"
	"slices"
	"sort"
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
// new sources come before those of known ones, in the order of hits. Otherwise it returns one of each
// new source first, then one of each known source, then the others. The sources with the most packets
// come first, so that a port scan, whose hits have one packet each, is named too.
func (n *named) pick(hits []sensor.Hit, now time.Time) []sensor.Hit {
	if now.Sub(n.turned) > namedFor || len(n.young) >= maxNamed {
		n.old, n.young, n.turned = n.young, map[netip.Addr]bool{}, now
	}
	packets := map[netip.Addr]uint64{} // by source, until its first hit is ranked
	if len(hits) > maxLines {
		for _, h := range hits {
			packets[h.Source] += h.Packets
		}
	}
	var fresh, known, more ranking
	for _, h := range hits {
		sum, first := packets[h.Source]
		delete(packets, h.Source)
		switch {
		case !first && len(hits) > maxLines:
			more.add(h, 0)
		case n.young[h.Source] || n.old[h.Source]:
			known.add(h, sum)
		default:
			fresh.add(h, sum)
		}
	}
	lines := slices.Concat(fresh.hits, known.hits, more.hits)
	lines = lines[:min(len(lines), maxLines)]
	for _, h := range lines {
		n.young[h.Source] = true
	}
	return lines
}

// ranking has the hits with the highest ranks, at most maxLines, highest first. Hits of equal rank are
// in the order in which they were added.
type ranking struct {
	hits  []sensor.Hit
	ranks []uint64
}

// add adds h, unless maxLines hits have its rank or a higher one.
func (r *ranking) add(h sensor.Hit, rank uint64) {
	at := sort.Search(len(r.ranks), func(i int) bool { return r.ranks[i] < rank })
	if at == maxLines {
		return
	}
	most := min(len(r.hits), maxLines-1)
	r.hits, r.ranks = slices.Insert(r.hits[:most], at, h), slices.Insert(r.ranks[:most], at, rank)
}
