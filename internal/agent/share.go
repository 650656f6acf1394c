package agent

import (
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// shared is something that is costly to read and may be asked for by many at once. An answer was read after its question
// was asked, and there is one reading at a time, at most one every so often: whoever asks meanwhile shares the next.
type shared[T any] struct {
	read  func() T
	every time.Duration

	turnC chan struct{} // capacity 1, full while somebody reads or is about to; owns last
	last  time.Time     // when the last reading began

	mu   sync.Mutex // holds next
	next *reading[T]
}

func newShared[T any](every time.Duration, read func() T) *shared[T] {
	return &shared[T]{read: read, every: every, turnC: make(chan struct{}, 1)}
}

// reading is what those who wait for it share.
type reading[T any] struct {
	doneC    chan struct{}
	value    T
	panicked error
}

// result returns the value, or panics if the reading did: each caller has its own way to contain
// that.
func (r *reading[T]) result() T {
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.value
}

// get returns a value that was read after the call began.
func (s *shared[T]) get() T {
	r := s.ask()
	<-r.doneC
	return r.result()
}

// within is get, but reports false after most: the kernel or a disk hangs. However many ask meanwhile, no more than two
// goroutines wait for it.
func (s *shared[T]) within(most time.Duration) (value T, ok bool) {
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

// ask returns a reading that has not begun yet.
func (s *shared[T]) ask() *reading[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &reading[T]{doneC: make(chan struct{})}
		go s.serve(s.next)
	}
	return s.next
}

// serve reads when it is its turn.
func (s *shared[T]) serve(r *reading[T]) {
	defer close(r.doneC)
	s.turnC <- struct{}{}
	defer func() { <-s.turnC }()
	time.Sleep(time.Until(s.last.Add(s.every)))
	s.mu.Lock()
	s.next = nil // a call from now on gets a later one
	s.mu.Unlock()
	s.last = time.Now()
	r.panicked = panics.Contain(func() error {
		r.value = s.read()
		return nil
	})
}
