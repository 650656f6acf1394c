package outlet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// capacity is the most bytes of lines that wait for the reader: about ten thousand lines.
	capacity = 1 << 20
	// overhead is added to the bytes of each line, so that the number of empty lines is also
	// bounded.
	overhead = 64
	// retryFirst and retryMost bound the wait before a write to a descriptor in non-blocking mode
	// is retried. Another program that shares the descriptor may have set that mode.
	retryFirst, retryMost = 10 * time.Millisecond, time.Second
	// stalledAfter is the time for one line after which the reader counts as stalled.
	stalledAfter = 10 * time.Second
)

// Writer writes lines to a reader without waiting for it. Its methods are safe for concurrent use.
type Writer struct {
	out    io.Writer
	notice func(lost uint64) []byte
	wakeC  chan struct{} // capacity 1: holds a value when run has work

	changedC chan struct{} // capacity 1: holds a value when the result of Stalled has changed
	slow     *time.Timer   // runs during a write, for stalledAfter

	mu      sync.Mutex
	waiting []line
	size    int       // bytes of the waiting lines, with overhead
	lost    uint64    // lines that found no room since the last line that did
	dropped uint64    // lines dropped since New
	since   time.Time // start of the current write, or of the first failed one; zero: no write is pending
	failure error     // error of the last line; nil if it was written
	told    string    // text of the error of Stalled at the last value of changedC; "" for nil
}

// line is a waiting line.
type line struct {
	text []byte
	lost uint64 // lines that were dropped immediately before it
}

// New returns a Writer to out. notice returns a line that states the number of dropped lines; nil
// means no notice.
func New(out io.Writer, notice func(lost uint64) []byte) *Writer {
	w := &Writer{out: out, notice: notice, wakeC: make(chan struct{}, 1), changedC: make(chan struct{}, 1)}
	w.slow = time.AfterFunc(stalledAfter, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tell()
	})
	w.slow.Stop()
	return w
}

// Write stores one or several complete lines. It never waits and never fails.
func (w *Writer) Write(text []byte) (int, error) {
	w.mu.Lock()
	if w.size+len(text)+overhead > capacity {
		w.lost++
		w.dropped++
	} else {
		w.waiting = append(w.waiting, line{append([]byte(nil), text...), w.lost})
		w.size += len(text) + overhead
		w.lost = 0
	}
	w.tell()
	w.mu.Unlock()
	w.wake()
	return len(text), nil
}

// Sync does nothing: the flush function of Start writes the remaining lines.
func (*Writer) Sync() error { return nil }

// wake signals run that there is work.
func (w *Writer) wake() {
	select {
	case w.wakeC <- struct{}{}:
	default:
	}
}

// Dropped returns the number of lines dropped since New.
func (w *Writer) Dropped() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// Stalled returns the reason why lines do not get through, or nil if they do.
func (w *Writer) Stalled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stalled()
}

// stalled is Stalled. The caller holds mu.
func (w *Writer) stalled() error {
	switch {
	case w.failure != nil:
		return fmt.Errorf("write log: %w", w.failure)
	case !w.since.IsZero() && time.Since(w.since) >= stalledAfter, w.lost > 0:
		return errors.New("write log: its reader does not read, or too slowly")
	default:
		return nil
	}
}

// ChangedC returns a channel of capacity 1, which has a value when the result of Stalled has changed.
func (w *Writer) ChangedC() <-chan struct{} { return w.changedC }

// tell puts a value into changedC if the result of Stalled has changed. The caller holds mu.
func (w *Writer) tell() {
	text := ""
	if err := w.stalled(); err != nil {
		text = err.Error()
	}
	if text == w.told {
		return
	}
	w.told = text
	select {
	case w.changedC <- struct{}{}:
	default:
	}
}

// Start starts writing. flush stops it: it returns when every line is written, or after most if the
// reader does not read. The goroutine that waits for such a reader ends with the process.
func (w *Writer) Start() (flush func(most time.Duration)) {
	ctx, stop := context.WithCancel(context.Background())
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		w.run(ctx)
	}()
	return func(most time.Duration) {
		stop()
		timer := time.NewTimer(most)
		defer timer.Stop()
		select {
		case <-doneC:
		case <-timer.C:
		}
	}
}

// run writes the waiting lines until ctx ends and none is left.
func (w *Writer) run(ctx context.Context) {
	var p progress
	for {
		l, ok := w.take()
		if ok {
			w.put(&p, l)
			continue
		}
		select {
		case <-w.wakeC:
		case <-ctx.Done():
			if l, ok = w.take(); !ok {
				return
			}
			w.put(&p, l)
		}
	}
}

// take removes and returns the first waiting line. If there is none, but lines were dropped, it
// returns an empty line that counts them.
func (w *Writer) take() (line, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		l := line{lost: w.lost}
		w.lost = 0
		w.tell()
		return l, l.lost > 0
	}
	l := w.waiting[0]
	w.waiting[0] = line{}
	w.waiting = w.waiting[1:]
	w.size -= len(l.text) + overhead
	return l, true
}

// progress is the state of run between two lines.
type progress struct {
	lost uint64 // lines that the reader refused, or that found no room, since the last notice
	cut  bool   // only a part of the last line was written
}

// put writes one line, and before it the notice about dropped lines.
func (w *Writer) put(p *progress, l line) {
	p.lost += l.lost
	w.begin()
	var err error
	if p.lost > 0 && w.notice != nil {
		err = w.write(p, w.notice(p.lost))
	}
	if err == nil {
		p.lost = 0
		err = w.write(p, l.text)
	}
	lost := err != nil && len(l.text) > 0
	if lost {
		p.lost++
	}
	w.end(err, lost)
}

// begin records the start of a write.
func (w *Writer) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		w.since = time.Now()
		w.slow.Reset(stalledAfter)
	}
}

// end records the result of a write.
func (w *Writer) end(err error, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure = err; err == nil {
		w.since = time.Time{}
		w.slow.Stop()
	}
	w.tell()
	if lost {
		w.dropped++
	}
}

// write writes all of text, or returns the reader's error.
func (w *Writer) write(p *progress, text []byte) error {
	if p.cut && len(text) > 0 {
		text = append([]byte{'\n'}, text...)
	}
	for wait := retryFirst; len(text) > 0; wait = min(2*wait, retryMost) {
		n, err := w.out.Write(text)
		text = text[min(n, len(text)):]
		if n > 0 {
			p.cut = len(text) > 0
		}
		switch {
		case len(text) == 0:
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(wait)
		case err == nil:
			return io.ErrShortWrite
		default:
			return err
		}
	}
	return nil
}
