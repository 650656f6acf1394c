package agent

import (
	"sync"
	"time"
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
	doneC chan struct{}
	value T
}

// get reads, or waits for a reading that has not begun yet.
func (s *shared[T]) get() T {
	s.mu.Lock()
	if r := s.next; r != nil {
		s.mu.Unlock()
		<-r.doneC
		return r.value
	}
	r := &reading[T]{doneC: make(chan struct{})}
	s.next = r
	s.mu.Unlock()
	defer close(r.doneC)

	s.turnC <- struct{}{}
	defer func() { <-s.turnC }()
	time.Sleep(time.Until(s.last.Add(s.every)))
	s.mu.Lock()
	s.next = nil // who asks from now on gets a later one
	s.mu.Unlock()
	s.last = time.Now()
	r.value = s.read()
	return r.value
}
