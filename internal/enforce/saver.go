package enforce

import (
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/panics"
)

const (
	// saveMost is how long a write to the disk may take before it is reported, and how long the end of the agent waits for it.
	saveMost = 5 * time.Second
	// saveRetryFirst and saveRetryMost bound the wait after a write that failed.
	saveRetryFirst, saveRetryMost = 5 * time.Second, time.Minute
)

// errSaving is the state of a write to a disk that hangs.
var errSaving = errors.New("it is still being written: the disk hangs")

// saver writes the newest of a series of values to the disk, which may be full or hang, until it is written. Each write has a
// goroutine of its own; one that hangs ends with the process. The methods may be called by any goroutine, and none but wait
// waits for the disk.
type saver struct {
	// report is called with the error of each write that fails or hangs, and with nil when the newest value is written.
	// changed is true if the previous call was of the other kind. It must not call the saver.
	report func(err error, changed bool)

	mu      sync.Mutex
	next    func() error  // writes the newest value; nil if that is written
	stale   bool          // next is newer than the write under way
	failed  bool          // a write has failed or hung since the newest value was written
	busyC   chan struct{} // closed when the write under way has ended; nil if none is
	slow    *time.Timer   // of the write under way
	retry   *time.Timer   // of the next attempt; nil if none is due
	backoff *backoff.ExponentialBackOff
}

func newSaver(report func(err error, changed bool)) *saver {
	return &saver{report: report, backoff: clock.NewBackoff(saveRetryFirst, saveRetryMost)}
}

// save has write called, instead of an earlier one that is not done yet.
func (s *saver) save(write func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = write
	if s.busyC != nil {
		s.stale = true
		return
	}
	s.begin()
}

// begin writes the newest value. The caller holds mu.
func (s *saver) begin() {
	write := s.next
	if s.retry != nil {
		s.retry.Stop()
	}
	s.stale, s.retry, s.busyC = false, nil, make(chan struct{})
	s.slow = time.AfterFunc(saveMost, s.late)
	go func() { s.done(panics.Contain(write)) }()
}

// late reports a write that takes longer than saveMost.
func (s *saver) late() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busyC != nil {
		s.fail(errSaving)
	}
}

// fail reports an error. The caller holds mu.
func (s *saver) fail(err error) {
	changed := !s.failed
	s.failed = true
	s.report(err, changed)
}

// done takes the result of a write.
func (s *saver) done(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(s.busyC)
	s.slow.Stop()
	s.busyC = nil
	if err != nil {
		s.fail(err)
	}
	switch {
	case s.stale:
		s.begin()
	case err != nil:
		s.retry = time.AfterFunc(max(s.backoff.NextBackOff(), clock.LeastWait), s.again)
	default:
		changed := s.failed
		s.next, s.failed = nil, false
		s.backoff.Reset()
		s.report(nil, changed)
	}
}

// again repeats a write that failed.
func (s *saver) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busyC == nil && s.next != nil {
		s.begin()
	}
}

// pending reports whether the newest value is not written yet.
func (s *saver) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next != nil
}

// wait waits until no write is under way, or until mostC is ready. A write that failed is not repeated meanwhile.
func (s *saver) wait(mostC <-chan time.Time) {
	for {
		s.mu.Lock()
		busyC := s.busyC
		s.mu.Unlock()
		if busyC == nil {
			return
		}
		select {
		case <-busyC:
		case <-mostC:
			return
		}
	}
}
