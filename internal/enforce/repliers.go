package enforce

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// Add takes note of replies to this host that were dropped. If one looks like a reply of a resolver, the API or the proxy, the
// host is surveyed and Run looks for listed upstreams. It may be called by any goroutine.
func (e *Enforcer) Add(w sensor.Window, now time.Time) {
	e.trials.repliers.add(w.Hits, now)
	needed := func(h sensor.Hit) bool { return h.Kind == sensor.Answer && e.o.Host.AnsweredFrom(h.Port) }
	if slices.ContainsFunc(w.Hits, needed) {
		e.surveys.repliesDropped()
		offer(e.trials.repliedC, struct{}{})
	}
}

const (
	// replyFresh is how long a dropped answer speaks for its source: a resolver asks a silent
	// upstream again and again.
	replyFresh = 30 * time.Second
	// maxRepliers is how many sources of dropped answers are remembered, and maxCandidates how many
	// of them are tried.
	maxRepliers, maxCandidates = 256, 64
	// retestAfter is the shortest time between two tests of whether an exemption is needed: a test
	// of one that is costs the host its DNS, or whatever needs it, for about two seconds.
	retestAfter = 6 * time.Hour
	// fewestMost bounds the search for the candidates that are needed, which takes a few seconds for
	// each of them. An outage that begins meanwhile looks as if all were.
	fewestMost = time.Minute
)

// repliers remembers whose answers to this host were dropped lately. One task adds, another reads.
type repliers struct {
	mu   sync.Mutex
	last map[netip.Addr]reply
}

type reply struct {
	dns bool // from a port of DNS
	at  time.Time
}

// add takes the hits of this moment.
func (s *repliers) add(hits []sensor.Hit, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range hits {
		if h.Kind != sensor.Answer {
			continue
		}
		if s.last == nil {
			s.last = map[netip.Addr]reply{}
		}
		if _, known := s.last[h.Source]; !known && len(s.last) >= maxRepliers {
			s.forgetOne()
		}
		s.last[h.Source] = reply{dns: s.last[h.Source].dns || h.Port == 53 || h.Port == 853, at: now}
	}
}

// forgetOne makes room: of the sources that did not answer from a port of DNS, or else of all, the
// oldest goes.
func (s *repliers) forgetOne() {
	var oldest netip.Addr
	for addr, a := range s.last {
		o := s.last[oldest]
		if !oldest.IsValid() || a.dns != o.dns && !a.dns || a.dns == o.dns && a.at.Before(o.at) {
			oldest = addr
		}
	}
	delete(s.last, oldest)
}

// on returns the sources that answered lately and are on the list, at most maxCandidates: those of
// DNS first, and the newest first. Neither those of DNS nor the others take more than half if there
// are too many.
func (s *repliers) on(list blocklist.Blocklist, now time.Time) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []netip.Addr
	dns := 0
	for addr, a := range s.last {
		if now.Sub(a.at) <= replyFresh && list.Contains(addr) {
			found = append(found, addr)
			if a.dns {
				dns++
			}
		}
	}
	slices.SortFunc(found, func(x, y netip.Addr) int {
		a, b := s.last[x], s.last[y]
		if a.dns != b.dns {
			return map[bool]int{true: -1, false: 1}[a.dns]
		}
		return cmp.Or(b.at.Compare(a.at), x.Compare(y))
	})
	if others := len(found) - dns; len(found) > maxCandidates {
		first := min(dns, max(maxCandidates/2, maxCandidates-others))
		found = slices.Concat(found[:first], found[dns:dns+maxCandidates-first])
	}
	return found
}
