package apisim

import (
	"net/http"
	"strconv"
	"time"
)

// quotaName is a daily quota.
type quotaName string

const (
	lookups quotaName = "lookups"
	reports quotaName = "reports"
	pulls   quotaName = "blacklist"
	taxii   quotaName = "taxii" // only shown by the status
)

// tier is the limits of a subscription.
type tier struct {
	id, name  string
	addresses int // of a blacklist
	quotas    map[quotaName]int
}

// tiers returns the public tiers. The report quotas of the paid tiers are not published; they are
// assumed to be those of lookups. 24 pulls a day are in the example of a status in the
// documentation.
func tiers() map[string]tier {
	of := func(id, name string, perDay, addresses int) tier {
		return tier{id: id, name: name, addresses: addresses, quotas: map[quotaName]int{
			lookups: perDay, reports: perDay, pulls: 24, taxii: 1000,
		}}
	}
	return map[string]tier{
		"free":   of("free", "Free", 1_000, 5_000),
		"basic":  of("tier_1", "Basic", 7_000, 50_000),
		"small":  of("tier_2", "Small Business", 14_000, 75_000),
		"medium": of("tier_3", "Medium Business", 30_000, 150_000),
		"large":  of("tier_4", "Large Business", 100_000, 350_000),
	}
}

// take uses up to n of a daily quota. It returns the number taken and the header of the answer. If
// none is left, the answer is a 429.
func (s *Sim) take(name quotaName, n int) (int, http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newDay()
	limit := s.tier.quotas[name]
	n = min(n, limit-s.used[name])
	s.used[name] += n
	h := http.Header{}
	h.Set("X-Daily-Limit", strconv.Itoa(limit))
	h.Set("X-Daily-Used", strconv.Itoa(s.used[name]))
	h.Set("X-Daily-Remaining", strconv.Itoa(limit-s.used[name]))
	return n, h
}

// newDay fills the quotas at midnight UTC. The lock is held.
func (s *Sim) newDay() {
	if day := s.o.Now().UTC().Truncate(24 * time.Hour); !day.Equal(s.day) {
		s.day, s.used = day, map[quotaName]int{}
	}
}

// spent returns the answer for a used-up quota.
func (s *Sim) spent(h http.Header) answer {
	now := s.o.Now().UTC()
	left := now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	a := refuse(http.StatusTooManyRequests, "daily quota exceeded")
	a.header = h
	// Rounded up, so that a client that waits this long does not return in the last second of the
	// day.
	a.header.Set("Retry-After", strconv.Itoa(int((left+time.Second-1)/time.Second)))
	return a
}
