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
	at      time.Time // last time at which a list of that size was in force
}

// header is a header line that not every copy has.
type header struct{ name, value string }

// The names of the headers for the state of a Feed.
const (
	largestHeader = "largest"
	quotaHeader   = "quota"
)

// InForce records that a list of so many entries is in force. The Feed holds the largest of the
// last seven days and saves it with the next copy.
func (f *Feed) InForce(entries int, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if entries >= f.largest.entries || now.Sub(f.largest.at) > largestFor {
		f.largest = largest{entries, now}
	}
	if f.largest.at.After(now) { // the clock was ahead, and it would last too long
		f.largest.at = now
	}
}

// Largest returns the number of entries of the largest list of the last days; 0 if none was in
// force.
func (f *Feed) Largest() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.largest.entries
}

// memory returns the headers for the state of the Feed.
func (f *Feed) memory() []header {
	f.mu.Lock()
	l := f.largest
	f.mu.Unlock()
	var hs []header
	if l.entries > 0 {
		hs = append(hs, header{largestHeader, fmt.Sprintf("%d %s", l.entries, l.at.UTC().Format(time.RFC3339))})
	}
	if q := f.Quota(); q.Known {
		reset := q.Reset.UTC().Format(time.RFC3339)
		hs = append(hs, header{quotaHeader, fmt.Sprintf("%d %d %s", q.Remaining, q.Limit, reset)})
	}
	return hs
}

// recall restores the state of the Feed from the headers of a copy. A header that cannot be parsed
// is skipped: a guard then compares with the list alone, and the API sends the quota with the next
// answer.
func (f *Feed) recall(headers map[string]string) {
	if n, at, ok := cutTime(headers[largestHeader]); ok {
		if entries, err := strconv.Atoi(n); err == nil && entries > 0 {
			f.mu.Lock()
			f.largest = largest{entries, at}
			f.mu.Unlock()
		}
	}
	if numbers, reset, ok := cutTime(headers[quotaHeader]); ok && reset.After(time.Now()) {
		q := sikkerapi.Quota{Known: true, Reset: reset}
		if n, err := fmt.Sscanf(numbers, "%d %d", &q.Remaining, &q.Limit); err == nil && n == 2 {
			f.quota.Store(q, time.Now())
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
