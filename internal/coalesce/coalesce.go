package coalesce

import (
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// Reader coalesces concurrent calls to an expensive function. Each call to Get returns a value that
// was computed after that call began. At most one computation runs at a time, and at most one
// begins in each period.
type Reader[T any] struct {
	read  func() T
	every time.Duration

	turnC chan struct{} // capacity 1, full while a goroutine reads or waits to read; guards last
	last  time.Time     // when the last reading began

	mu   sync.Mutex // guards next
	next *reading[T]
}

// New returns a Reader of read, which it calls at most once in each period of length every.
func New[T any](every time.Duration, read func() T) *Reader[T] {
	return &Reader[T]{read: read, every: every, turnC: make(chan struct{}, 1)}
}

// reading is one computation, and the result that all of its callers share.
type reading[T any] struct {
	doneC    chan struct{}
	value    T
	panicked error
}

// result returns the value. If the computation panicked, result panics with the same error.
func (r *reading[T]) result() T {
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.value
}

// Get returns a value that was read after the call began. It panics if read does.
func (s *Reader[T]) Get() T {
	r := s.ask()
	<-r.doneC
	return r.result()
}

// Within is like Get, but reports false once most has passed, as when the kernel or a disk hangs.
// However many callers there are meanwhile, at most two goroutines wait for the hanging call.
func (s *Reader[T]) Within(most time.Duration) (value T, ok bool) {
	r := s.ask()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-r.doneC:
		return r.result(), true
	case <-timer.C:
		return value, false
	}
}

// ask returns the next computation, which has not begun yet.
func (s *Reader[T]) ask() *reading[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &reading[T]{doneC: make(chan struct{})}
		go s.serve(s.next)
	}
	return s.next
}

// serve computes r when it is its turn.
func (s *Reader[T]) serve(r *reading[T]) {
	defer close(r.doneC)
	s.turnC <- struct{}{}
	defer func() { <-s.turnC }()
	time.Sleep(time.Until(s.last.Add(s.every)))
	s.mu.Lock()
	s.next = nil // a later call gets a later computation
	s.mu.Unlock()
	s.last = time.Now()
	r.panicked = panics.Contain(func() error {
		r.value = s.read()
		return nil
	})
}
