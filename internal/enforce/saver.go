package enforce

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/bounded"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
)

const (
	// saveMost is how long a write to the disk may take before it is reported, and how long the end
	// of the agent waits for it.
	saveMost = 5 * time.Second
	// readMost is how long a start waits for its readings of the disk.
	readMost = 5 * time.Second
	// saveRetryFirst and saveRetryMost bound the wait after a write that failed.
	saveRetryFirst, saveRetryMost = 5 * time.Second, time.Minute
)

// errSaving is the error of a write to a disk that hangs.
var errSaving = errors.New("the write has not ended: the disk hangs")

// saver writes the newest of a series of values to a disk that may be full or hang, until it
// succeeds. Each write has a goroutine of its own; one that hangs ends with the process. The
// methods may be called by any goroutine. Only wait waits for the disk.
type saver struct {
	// report is called with the error of each write that fails or hangs, and with nil when the
	// newest value is written. changed is true if the previous call was of the other kind. It must
	// not call the saver.
	report func(err error, changed bool)

	mu      sync.Mutex
	next    func() error  // writes the newest value; nil if that is written
	stale   bool          // next is newer than the write under way
	failed  bool          // a write has failed or hung since the newest value was written
	ended   bool          // a write that fails is not repeated
	busyC   chan struct{} // closed when the write under way has ended; nil if none is
	slow    *time.Timer   // of the write under way
	retry   *time.Timer   // of the next attempt; nil if none is due
	backoff *backoff.ExponentialBackOff
}

func newSaver(report func(err error, changed bool)) *saver {
	return &saver{report: report, backoff: clock.NewBackoff(saveRetryFirst, saveRetryMost)}
}

// save has write called. It replaces an earlier value that is not written yet.
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

// done handles the result of a write.
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
	case err != nil && s.ended:
	case err != nil:
		s.retry = time.AfterFunc(max(s.backoff.NextBackOff(), clock.LeastWait), s.retryWrite)
	default:
		changed := s.failed
		s.next, s.failed = nil, false
		s.backoff.Reset()
		s.report(nil, changed)
	}
}

// retryWrite repeats a write that failed.
func (s *saver) retryWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busyC == nil && s.next != nil && !s.ended {
		s.begin()
	}
}

// pending reports whether the newest value is not written yet.
func (s *saver) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next != nil
}

// end waits until the newest value is written, its write fails, or mostC is closed. Afterwards no
// failed write is repeated.
func (s *saver) end(mostC <-chan struct{}) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.wait(mostC)
}

// wait waits until no write is under way, or until mostC is closed.
func (s *saver) wait(mostC <-chan struct{}) {
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

// logDiskFailure logs that a file of the state directory cannot be read or written. If the
// directory as a whole is unusable, it logs nothing; that has a condition of its own.
func (e *Enforcer) logDiskFailure(text string, err error) {
	if !statedir.IsUnusable(err) {
		e.o.Log.Warn(text, zap.Error(err))
	}
}

// unsaved holds the errors of the last writes of the active lists. Its methods may be called by any
// goroutine.
type unsaved struct {
	mu   sync.Mutex // held while the errors are published, so that the newest are
	errs map[*remote]error
}

// set replaces the error of a feed and calls publish. of returns the error of each feed.
func (u *unsaved) set(r *remote, err error, publish func(of func(*remote) error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.errs == nil {
		u.errs = map[*remote]error{}
	}
	u.errs[r] = err
	publish(func(r *remote) error { return u.errs[r] })
}

// lostFiles are the saved files that another program removed or changed.
type lostFiles struct {
	lists, refused []*remote
	own, names     bool
}

// CheckSaved has saved files written again that another program removed or changed. It waits for
// the disk, which may hang. It may be called by any goroutine.
func (e *Enforcer) CheckSaved() {
	lost := lostFiles{names: e.o.StateDir.NamesLost()}
	for _, r := range e.remotes {
		list, refused := r.saved.Lost()
		if list {
			lost.lists = append(lost.lists, r)
		}
		if refused {
			lost.refused = append(lost.refused, r)
		}
	}
	if own := e.o.Own; own != nil {
		lost.own, _ = own.Saved.Lost()
	}
	if len(lost.lists)+len(lost.refused) > 0 || lost.own || lost.names {
		offer(e.loop.lostC, lost)
	}
}

// rewriteLost has lost files written again. A dry run writes none. A file whose first write is
// still pending is not lost.
func (e *Enforcer) rewriteLost(lost lostFiles) {
	if e.o.DryRun {
		return
	}
	log := func(file string) {
		e.o.Log.Warn("A file was removed from SIKKER_STATE_DIR or changed there; it is written again",
			zap.String("file", file))
	}
	for _, r := range lost.lists {
		if r.list.at != (clock.Moment{}) && !r.saver.pending() {
			log("blacklist")
			e.writeList(r)
		}
	}
	for _, r := range lost.refused {
		if r.refused.aside != nil && !r.refusedSaver.pending() {
			log("refused blacklist")
			e.saveRefused(r)
		}
	}
	if lost.own && e.own.since != (clock.Moment{}) && !e.own.saver.pending() {
		log("custom blacklist")
		e.own.saved = nil
		e.saveOwn()
	}
	if lost.names && !e.names.saver.pending() {
		e.names.saved = host.Names{}
		if e.names.due(e.o.Host.Resolved(e.o.Clock.Now().Wall)) { // otherwise saveNames writes it once they resolve
			log("addresses of names")
			e.saveNames()
		}
	}
}

// readDisk begins read, which reads the state directory. The function that it returns waits for the
// results of read; they are an error if read takes longer than readMost.
func readDisk[T any](what string, read func() (T, error)) (wait func() (T, error)) {
	return inBackground(func() (T, error) {
		v, err := bounded.Call(readMost, read)
		if errors.Is(err, bounded.ErrHangs) {
			err = fmt.Errorf("the %s takes longer than %v: look at the disk of SIKKER_STATE_DIR", what, readMost)
		}
		return v, err
	})
}
