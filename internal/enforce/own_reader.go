package enforce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

const (
	// ownReadMost is how long a reading of the operator's file may take before it counts as failed.
	ownReadMost = 10 * time.Second
	// ownSettled is how long a file whose last line does not end must stay as it is to count as
	// whole.
	ownSettled = 5 * time.Second
	// ownReread is how long after a reading a file that changed meanwhile is read once more.
	ownReread = time.Second
	// ownWrittenMost is how long a file may be written without a pause before that is reported.
	ownWrittenMost = time.Minute
)

// errOwnHangs is a file system that does not answer.
var errOwnHangs = fmt.Errorf("the file system does not answer within %s", ownReadMost)

// ownReading is one reading of the operator's list: the verdict, or the reason why there is
// none.
type ownReading struct {
	verdict vet.Verdict
	err     error
}

// ownReader reads the operator's list and keeps the newest reading. Nothing waits for it but for
// a limited time: the file may be on a disk or a network that hangs. A nil reader is that of a host
// without such a list.
type ownReader struct {
	open func() (*feed.OpenFile, error)

	askC  chan struct{} // capacity 1: a reading is due
	newsC chan struct{} // capacity 1: there is a newer reading

	mu      sync.Mutex      // guards the fields below
	last    *ownReading     // the newest; nil before the first
	waiting []chan struct{} // closed when a reading is published

	settling settling // of Run's goroutine
}

// settling is a file that another program may be writing.
type settling struct {
	file  *feed.OpenFile // as it was found; nil if the file was whole
	since time.Time      // when it was found so first
	began time.Time      // when it was found not to be whole
}

func newOwnReader(open func() (*feed.OpenFile, error)) *ownReader {
	return &ownReader{open: open, askC: make(chan struct{}, 1), newsC: make(chan struct{}, 1)}
}

// Run reads the file whenever that is asked for, until ctx ends. Then it returns nil, also while
// the file system hangs.
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

// ownAttempt is one reading, with the file and whether it was whole while it was read.
type ownAttempt struct {
	ownReading

	file  *feed.OpenFile // closed; nil if it could not be opened
	whole error
}

// try reads the file once. It reports whether ctx is alive. A goroutine that hangs ends with the
// process.
func (r *ownReader) try(ctx context.Context) (ownAttempt, bool) {
	doneC := make(chan ownAttempt, 1)
	go func() {
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
			r.publish(ownReading{err: errOwnHangs})
		}
	}
}

// read reads the file, however long that takes.
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

// settle publishes a reading of a whole file, and returns after how long another must be read once
// more.
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
	r.last = &v
	for _, doneC := range r.waiting {
		close(doneC)
	}
	r.waiting = nil
	r.mu.Unlock()
	offer(r.newsC, struct{}{})
}

// newest returns the newest reading, nil before the first.
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
	r.waiting = append(r.waiting, doneC)
	r.mu.Unlock()
	offer(r.askC, struct{}{})
	return doneC
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
