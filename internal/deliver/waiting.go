package deliver

import (
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// waiting holds, in memory, the hits that wait for the database and the last known state of the
// report queue. Its methods may be called by any goroutine.
type waiting struct {
	mu      sync.Mutex
	hits    sensor.Sums
	since   time.Time       // the first of the hits was seen after it
	taken   time.Time       // when the last of the hits were added
	gone    uint64          // packets without room
	began   time.Time       // of the use of the database that is under way; zero if none is
	hung    bool            // the last result of noticeHang
	reports *status.Reports // at the last reading; nil if that failed
}

// add adds hits, and in w.Overflow packets that found no room. It returns the number of hits that
// wait.
func (s *waiting) add(w sensor.Window, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hits.Len() == 0 {
		s.since = s.taken
		if s.since.IsZero() { // the first call
			s.since = now
		}
	}
	s.taken = now
	s.hits.Add(w)
	return s.hits.Len()
}

// take removes the hits and returns them with the time span in which they were seen. The caller
// records them or puts them back.
func (s *waiting) take() (w sensor.Window, from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w = s.hits.Take()
	s.gone += w.Overflow // of hits without room only the number is known
	w.Overflow = 0
	return w, s.since, s.taken
}

// putBack returns hits that take has removed.
func (s *waiting) putBack(w sensor.Window, from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	later := s.hits.Take()
	s.hits.Add(w) // first: if there is no room for all, the older ones stay
	s.hits.Add(later)
	s.since = from
}

// busy records that a use of the database begins, or has ended.
func (s *waiting) busy(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = time.Time{}
	if is {
		s.began = time.Now()
	}
}

// hangs reports whether the database has been busy for longer than a recording may take. Opening and
// pruning may take longer on a slow disk. The caller holds mu.
func (s *waiting) hangs(now time.Time) bool {
	return !s.began.IsZero() && now.Sub(s.began) > storeTimeout+recordEvery
}

// noticeHang reports whether the database hangs, and whether that has changed since the previous
// call.
func (s *waiting) noticeHang(now time.Time) (hangs, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hangs = s.hangs(now)
	changed, s.hung = hangs != s.hung, hangs
	return hangs, changed
}

// unrecorded returns the number of packets that found no room, so far.
func (s *waiting) unrecorded() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone + s.hits.Overflow()
}

// setQueue replaces the state of the report queue.
func (s *waiting) setQueue(r *status.Reports) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = r
}

// queue returns the last known state of the report queue; nil if the database failed at the last
// reading or hangs.
func (s *waiting) queue(now time.Time) *status.Reports {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hangs(now) {
		return nil
	}
	return s.reports
}
