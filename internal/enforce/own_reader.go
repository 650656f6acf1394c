package enforce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/memory"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

const (
	// ownReadMost is how long a reading of the operator's file may take before it counts as failed.
	ownReadMost = 10 * time.Second
	// ownSettled is how long a file without a newline at its end must stay unchanged to count as
	// complete.
	ownSettled = 5 * time.Second
	// ownReread is how long after a reading a file that changed meanwhile is read again.
	ownReread = time.Second
	// ownWrittenMost is how long a file may be written without a pause before that is reported.
	ownWrittenMost = time.Minute
)

// errOwnHangs is the error of a reading on a file system that does not answer.
var errOwnHangs = fmt.Errorf("the file system does not answer within %s", ownReadMost)

// ownReading is one reading of the operator's file: the verdict, or an error.
type ownReading struct {
	verdict vet.Verdict
	err     error
}

// ownReader reads the operator's file and stores the newest reading. Callers wait for it only for a
// limited time, because the file may be on a disk or network that hangs. A nil *ownReader is valid;
// it stands for a host without such a file.
type ownReader struct {
	open   func() (*feed.OpenFile, error)
	memory *memory.Reclaimer

	askC  chan struct{} // capacity 1: a reading is due
	newsC chan struct{} // capacity 1: there is a newer reading

	mu      sync.Mutex      // guards the fields below
	last    *ownReading     // the newest; nil before the first
	waiting []chan struct{} // closed when a reading is published
	since   time.Time       // when the first of waiting was added

	settling settling // used by Run alone
}

// settling is the state of a file that another program may be writing.
type settling struct {
	file  *feed.OpenFile // at the last reading; nil if the file was complete
	since time.Time      // when file was first found in that state
	began time.Time      // when the file was first found incomplete
}

func newOwnReader(open func() (*feed.OpenFile, error), m *memory.Reclaimer) *ownReader {
	return &ownReader{open: open, memory: m, askC: make(chan struct{}, 1), newsC: make(chan struct{}, 1)}
}

// Run reads the file whenever ask is called, until ctx ends. Then it returns nil, also while the
// file system hangs.
func (r *ownReader) Run(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.askC:
		case <-again:
		}
		tried, ok := r.try(ctx)
		if !ok {
			return nil
		}
		again = nil
		if wait := r.settle(tried, time.Now()); wait > 0 {
			again = time.After(wait)
		}
	}
}

// ownAttempt is one reading, the file, and whether the file was complete.
type ownAttempt struct {
	ownReading

	file  *feed.OpenFile // closed; nil if it could not be opened
	whole error          // nil if the file was complete during the reading
}

// try reads the file once. It returns false if ctx ends. A goroutine that hangs ends with the
// process.
func (r *ownReader) try(ctx context.Context) (ownAttempt, bool) {
	doneC := make(chan ownAttempt, 1)
	end := r.memory.Begin()
	go func() {
		defer end()
		var t ownAttempt
		if err := panics.Contain(func() error { t = r.read(); return nil }); err != nil {
			t = ownAttempt{ownReading: ownReading{err: err}}
		}
		doneC <- t
	}()
	timer := time.NewTimer(ownReadMost)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ownAttempt{}, false
		case t := <-doneC:
			return t, true
		case <-timer.C:
			end() // a reading that hangs needs no memory
			r.publish(ownReading{err: errOwnHangs})
		}
	}
}

// read reads the file without a time limit.
func (r *ownReader) read() (t ownAttempt) {
	if t.file, t.err = r.open(); t.err != nil {
		return t
	}
	t.verdict, t.err = vet.Custom(t.file)
	t.whole = t.file.Whole()
	if err := t.file.Close(); t.err == nil {
		t.err = err
	}
	return t
}

// settle publishes a reading of a complete file. If the file is incomplete, settle returns the
// delay until the next reading.
func (r *ownReader) settle(t ownAttempt, now time.Time) time.Duration {
	s := &r.settling
	same := t.file != nil && t.file.SameAs(s.file)
	unended := errors.Is(t.whole, feed.ErrFileUnended)
	switch {
	case t.whole == nil, unended && same && now.Sub(s.since) >= ownSettled:
		*s = settling{}
		r.publish(t.ownReading)
		return 0
	case !unended && !errors.Is(t.whole, feed.ErrFileChanging):
		*s = settling{}
		r.publish(ownReading{err: t.whole})
		return 0
	}
	if s.file == nil {
		s.began = now
	}
	if !same {
		s.file, s.since = t.file, now
	}
	if now.Sub(s.began) >= ownWrittenMost {
		r.publish(ownReading{err: t.whole})
	}
	if unended {
		return ownSettled
	}
	return ownReread
}

// publish makes v the newest reading.
func (r *ownReader) publish(v ownReading) {
	r.mu.Lock()
	if r.last != nil && v.verdict.List.Equal(r.last.verdict.List) {
		v.verdict.List = r.last.verdict.List // one copy in memory
	}
	r.last = &v
	for _, doneC := range r.waiting {
		close(doneC)
	}
	r.waiting = nil
	r.mu.Unlock()
	offer(r.newsC, struct{}{})
}

// newest returns the newest reading; nil before the first.
func (r *ownReader) newest() *ownReading {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// ask has the file read. The channel is closed when the next reading is published.
func (r *ownReader) ask() <-chan struct{} {
	doneC := make(chan struct{})
	if r == nil {
		close(doneC)
		return doneC
	}
	r.mu.Lock()
	if len(r.waiting) == 0 {
		r.since = time.Now()
	}
	r.waiting = append(r.waiting, doneC)
	r.mu.Unlock()
	offer(r.askC, struct{}{})
	return doneC
}

// patience returns a channel that has a value once ownWaitMost has passed since the first of the
// requests that wait for a reading. A file that hangs delays a start and its first pull together that
// long.
func (r *ownReader) patience() <-chan time.Time {
	if r == nil {
		return nil // nothing is waited for
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.After(ownWaitMost - time.Since(r.since))
}

// news returns a channel that has a value when there is a newer reading.
func (r *ownReader) news() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.newsC
}

// ReadOwn reads the operator's file whenever that is due, until ctx ends.
func (e *Enforcer) ReadOwn(ctx context.Context) error { return e.own.reader.Run(ctx) }
