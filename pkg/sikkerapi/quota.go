package sikkerapi

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxRetryAfter bounds what the API may ask for: quotas are daily.
	maxRetryAfter = 24 * time.Hour
	// minUnixSeconds tells a Unix time from a number of seconds in X-RateLimit-Reset, whose unit is not documented: no
	// daily quota resets in 31 years.
	minUnixSeconds = 1_000_000_000
)

// Quota is the daily quota of the endpoint that was asked, as the answer's header told it.
type Quota struct {
	Known     bool // whether the header told it; the rest is zero when it did not
	Limit     int  // per day
	Used      int
	Remaining int
	Reset     time.Time // UTC; zero when not told, as the newer deployments do not: their quotas reset at midnight UTC
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

// Store replaces the quota by q. If q has no Reset, it is set to q.ResetsAt(now). If q is not Known,
// nothing changes.
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

// quota reads the header: X-Daily-* of the newer deployments, else X-RateLimit-* (blacklist, check) or X-Report-* (bulk
// report) of the older ones.
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

// count reads a number of requests; 31 bits, so that it is an int everywhere.
func count(s string) (int, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 31)
	return int(n), err == nil
}

// reset reads when a quota resets: a Unix time, or seconds from now. The zero time means not told.
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
	return time.Time{} // neither unit makes sense of it, or this host's clock is wrong
}

// retryAfter reads a Retry-After header (RFC 9110, 10.2.3): a number of seconds, or a date. The result is 0–24 h. ok is
// false when there is none that can be read, a negative number or a date that has passed among them.
func retryAfter(s string, now time.Time) (wait time.Duration, ok bool) {
	s = strings.TrimSpace(s)
	if s != "" && strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) { // more digits than 64 bits are absurd as well
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

// retryAfterOf reads the Retry-After header of an answer. A date in it is measured against the
// server's own clock, the Date header, because the clock of this host may be wrong; against now
// where the server's makes no sense of it.
func retryAfterOf(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	s := h.Get("Retry-After")
	if sent, err := http.ParseTime(h.Get("Date")); err == nil {
		if wait, ok := retryAfter(s, sent); ok {
			return wait, true
		}
	}
	return retryAfter(s, now)
}

// untilRenewed returns how long a spent quota lasts: until the reset that the answer told, else until
// midnight UTC by the server's clock, because the clock of this host may be wrong. The result is more
// than 0 and at most 24 h.
func untilRenewed(q Quota, h http.Header, now time.Time) time.Duration {
	if !q.Reset.IsZero() {
		return min(q.Reset.Sub(now), maxRetryAfter)
	}
	if sent, err := http.ParseTime(h.Get("Date")); err == nil {
		return untilMidnight(sent)
	}
	return untilMidnight(now)
}

// untilMidnight is how long it is to the next midnight UTC, when quotas reset: more than 0, at most 24 h.
func untilMidnight(now time.Time) time.Duration {
	now = now.UTC()
	return now.Truncate(maxRetryAfter).Add(maxRetryAfter).Sub(now)
}
