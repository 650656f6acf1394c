package feed

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// largestFor is the time for which the largest list counts.
const largestFor = 7 * 24 * time.Hour

// largest is the size of the largest list of the last days.
type largest struct {
	entries int
	at      time.Time // last time at which a list of that size was active
}

// header is a header line that not every copy has.
type header struct{ name, value string }

// The names of the headers for the state of a Saved.
const (
	largestHeader = "largest"
	quotaHeader   = "quota"
)

// RecordActive records that a list of so many entries is active. Saved holds the largest of the
// last seven days and saves it with the next copy.
func (s *Saved) RecordActive(entries int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entries >= s.largest.entries || now.Sub(s.largest.at) > largestFor {
		s.largest = largest{entries, now}
	}
	if s.largest.at.After(now) { // the clock was ahead, and it would last too long
		s.largest.at = now
	}
}

// Largest returns the number of entries of the largest list of the last days; 0 if none was active.
func (s *Saved) Largest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.largest.entries
}

// memory returns the headers for the state of s.
func (s *Saved) memory() []header {
	s.mu.Lock()
	l := s.largest
	s.mu.Unlock()
	var hs []header
	if l.entries > 0 {
		hs = append(hs, header{largestHeader, fmt.Sprintf("%d %s", l.entries, l.at.UTC().Format(time.RFC3339))})
	}
	if q := s.quota(); q.Known {
		reset := q.Reset.UTC().Format(time.RFC3339)
		hs = append(hs, header{quotaHeader, fmt.Sprintf("%d %d %s", q.Remaining, q.Limit, reset)})
	}
	return hs
}

// recall restores the state of s from the headers of a copy. A header that cannot be parsed
// is skipped: a guard then compares with the list alone, and the API sends the quota with the next
// answer.
func (s *Saved) recall(headers map[string]string) {
	if n, at, ok := cutTime(headers[largestHeader]); ok {
		if entries, err := strconv.Atoi(n); err == nil && entries > 0 {
			s.mu.Lock()
			s.largest = largest{entries, at}
			s.mu.Unlock()
		}
	}
	if numbers, reset, ok := cutTime(headers[quotaHeader]); ok && reset.After(time.Now()) {
		q := sikkerapi.Quota{Known: true, Reset: reset}
		if n, err := fmt.Sscanf(numbers, "%d %d", &q.Remaining, &q.Limit); err == nil && n == 2 {
			if f, ok := s.feed.(quoted); ok {
				f.SetQuota(q)
			}
		}
	}
}

// cutTime splits the time from the end of a header.
func cutTime(value string) (before string, at time.Time, ok bool) {
	i := strings.LastIndexByte(value, ' ')
	if i < 0 {
		return "", time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, value[i+1:])
	return value[:i], at, err == nil
}

// quoted is a feed with a quota.
type quoted interface {
	Quota() sikkerapi.Quota
	SetQuota(q sikkerapi.Quota)
}

// quota returns the quota of the feed; it is not Known if the feed has none.
func (s *Saved) quota() sikkerapi.Quota {
	if f, ok := s.feed.(quoted); ok {
		return f.Quota()
	}
	return sikkerapi.Quota{}
}
