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

const (
	// replyFresh is how long a dropped reply counts as evidence for its source. A resolver asks a
	// silent upstream repeatedly.
	replyFresh = 30 * time.Second
	// maxRepliers is the largest number of sources of dropped replies that are stored.
	maxRepliers = 256
	// maxCandidates is the largest number of repliers that one trial lets through.
	maxCandidates = 64
)

// repliers stores the sources of recently dropped replies to this host. Its methods may be called
// by any goroutine.
type repliers struct {
	mu   sync.Mutex
	last map[netip.Addr]reply
}

type reply struct {
	dns bool // from a DNS port
	at  time.Time
}

// add stores the sources of the replies among hits.
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

// forgetOne deletes the oldest of the sources that did not reply from a DNS port, or if there are
// none the oldest of all. The caller holds mu.
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

// on returns the recent repliers that are on the list, at most maxCandidates: first those of DNS,
// and within each kind the newest first. If there are too many, neither kind takes more than half,
// unless the other needs less.
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

// Add stores the sources of replies to this host that were dropped. If one appears to come from a
// resolver, the API or the proxy, it requests a survey and a test of the upstreams. It may be
// called by any goroutine.
func (e *Enforcer) Add(w sensor.Window, now time.Time) {
	e.trials.repliers.add(w.Hits, now)
	e.trials.late.add(w.Hits, e.o.Host.AnsweredFrom)
	needed := func(h sensor.Hit) bool { return h.Kind == sensor.Answer && e.o.Host.AnsweredFrom(h.Port) }
	if slices.ContainsFunc(w.Hits, needed) {
		e.surveys.repliesDropped()
		offer(e.trials.repliedC, struct{}{})
	}
}
