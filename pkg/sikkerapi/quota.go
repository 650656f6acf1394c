package sikkerapi

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxRetryAfter is the longest wait that the API may ask for: quotas are daily.
	maxRetryAfter = 24 * time.Hour
	// minUnixSeconds is the least number in X-RateLimit-Reset that is a Unix time and not a number
	// of seconds; its unit is not documented. No daily quota resets in 31 years.
	minUnixSeconds = 1_000_000_000
)

// Quota is the daily quota of an endpoint, from the header of its answer.
type Quota struct {
	Known     bool // the header contained it; if not, all other fields are zero
	Limit     int  // per day
	Used      int
	Remaining int
	// UTC; zero if the header has none, as with newer deployments: their quotas reset at midnight
	// UTC
	Reset time.Time
}

// ResetsAt returns when the quota is full again: Reset if it is after now, and otherwise the next
// midnight UTC. The result has a monotonic reading if now has one.
func (q Quota) ResetsAt(now time.Time) time.Time {
	if q.Reset.After(now) {
		return now.Add(q.Reset.Sub(now.Round(0)))
	}
	return now.Add(untilMidnight(now))
}

// LatestQuota holds the latest quota from the API. The zero value holds none. Any goroutine may
// use it.
type LatestQuota struct{ p atomic.Pointer[Quota] }

// Store replaces the quota by q. If q has no Reset, it is set to q.ResetsAt(now). If q is not
// Known, nothing changes.
func (l *LatestQuota) Store(q Quota, now time.Time) {
	if !q.Known {
		return
	}
	if q.Reset.IsZero() {
		q.Reset = q.ResetsAt(now).Round(0).UTC()
	}
	l.p.Store(&q)
}

// Load returns the quota. It is not Known if none was stored.
func (l *LatestQuota) Load() Quota {
	if q := l.p.Load(); q != nil {
		return *q
	}
	return Quota{}
}

// quota parses the header: X-Daily-* of newer deployments, else X-RateLimit-* (blacklist, check) or
// X-Report-* (bulk report) of older ones.
func quota(h http.Header, now time.Time) Quota {
	for _, prefix := range []string{"X-Daily-", "X-Ratelimit-", "X-Report-"} {
		limit, ok := count(h.Get(prefix + "Limit"))
		if !ok {
			continue
		}
		q := Quota{Known: true, Limit: limit}
		used, hasUsed := count(h.Get(prefix + "Used"))
		remaining, hasRemaining := count(h.Get(prefix + "Remaining"))
		switch {
		case hasUsed && hasRemaining:
			q.Used, q.Remaining = used, remaining
		case hasRemaining:
			q.Used, q.Remaining = max(0, limit-remaining), remaining
		case hasUsed:
			q.Used, q.Remaining = used, max(0, limit-used)
		default:
			continue
		}
		q.Reset = reset(h.Get(prefix+"Reset"), now)
		return q
	}
	return Quota{}
}

// count parses a number of requests. It has 31 bits, so that it is an int on every platform.
func count(s string) (int, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 31)
	return int(n), err == nil
}

// reset parses the reset of a quota: a Unix time, or seconds from now. It returns the zero time if
// there is none.
func reset(s string, now time.Time) time.Time {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	switch {
	case err != nil || n < 0:
		return time.Time{}
	case n < minUnixSeconds:
		n += now.Unix()
	}
	if t := time.Unix(n, 0).UTC(); t.After(now) && t.Sub(now) <= 2*maxRetryAfter {
		return t
	}
	return time.Time{} // it makes sense in neither unit, or the clock of this host is wrong
}

// retryAfter parses a Retry-After header (RFC 9110, 10.2.3): a number of seconds, or a date. wait
// is 0–24 h. ok is false if there is no valid value; a negative number or a date in the past is not
// valid.
func retryAfter(s string, now time.Time) (wait time.Duration, ok bool) {
	s = strings.TrimSpace(s)
	if s != "" && strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) { // more digits than 64 bits are also absurd
			return maxRetryAfter, true
		}
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(s)
	if err != nil || at.Before(now) {
		return 0, false
	}
	return min(at.Sub(now), maxRetryAfter), true
}

// retryAfterOf parses the Retry-After header of an answer. A date in it is compared with the clock
// of the server, the Date header, because the clock of this host may be wrong. If that gives no
// valid wait, the date is compared with now.
func retryAfterOf(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	s := h.Get("Retry-After")
	if sent, err := http.ParseTime(h.Get("Date")); err == nil {
		if wait, ok := retryAfter(s, sent); ok {
			return wait, true
		}
	}
	return retryAfter(s, now)
}

// untilRenewed returns the time until a used-up quota is renewed: until the reset in the answer,
// else until midnight UTC by the clock of the server, because the clock of this host may be wrong.
// The result is more than 0 and at most 24 h.
func untilRenewed(q Quota, h http.Header, now time.Time) time.Duration {
	if !q.Reset.IsZero() {
		return min(q.Reset.Sub(now), maxRetryAfter)
	}
	if sent, err := http.ParseTime(h.Get("Date")); err == nil {
		return untilMidnight(sent)
	}
	return untilMidnight(now)
}

// untilMidnight returns the time until the next midnight UTC, when quotas reset: more than 0, at
// most 24 h.
func untilMidnight(now time.Time) time.Duration {
	now = now.UTC()
	return now.Truncate(maxRetryAfter).Add(maxRetryAfter).Sub(now)
}
