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
	// capacity is how many bytes of lines wait for the reader at most: about ten thousand lines.
	capacity = 1 << 20
	// overhead is counted for each line on top of its bytes, so that empty ones are bounded, too.
	overhead = 64
	// againFirst and againMost bound the wait before a descriptor in non-blocking mode, which
	// another program that shares it has set, is tried again.
	againFirst, againMost = 10 * time.Millisecond, time.Second
	// stalledAfter is how long one line may take before the reader counts as stalled.
	stalledAfter = 10 * time.Second
)

// Writer passes lines on. Its methods may be called from several goroutines.
type Writer struct {
	out    io.Writer
	notice func(lost uint64) []byte
	wakeC  chan struct{} // capacity 1: something waits

	mu      sync.Mutex
	waiting []line
	size    int       // of the waiting lines
	lost    uint64    // lines that found no room since the last one that did
	dropped uint64    // lines so far
	since   time.Time // when the line that is being written was begun, or the first one that failed; zero: all is well
	failure error     // of the last line; nil when it was written
}

// line is one that waits.
type line struct {
	text []byte
	lost uint64 // lines that were dropped just before it
}

// New makes a Writer to out. notice returns the line that stands for lines that were dropped; nil
// for none.
func New(out io.Writer, notice func(lost uint64) []byte) *Writer {
	return &Writer{out: out, notice: notice, wakeC: make(chan struct{}, 1)}
}

// Write takes one or several whole lines. It never waits and never fails.
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
	w.mu.Unlock()
	w.wake()
	return len(text), nil
}

// Sync does nothing: the flush of Start is at the end.
func (*Writer) Sync() error { return nil }

// wake wakes run up.
func (w *Writer) wake() {
	select {
	case w.wakeC <- struct{}{}:
	default:
	}
}

// Dropped returns how many lines were dropped so far.
func (w *Writer) Dropped() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// Stalled returns why lines do not get through, nil while they do.
func (w *Writer) Stalled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.failure != nil:
		return fmt.Errorf("write log: %w", w.failure)
	case !w.since.IsZero() && time.Since(w.since) >= stalledAfter, w.lost > 0:
		return errors.New("write log: its reader does not read, or too slowly")
	default:
		return nil
	}
}

// Start begins to write. flush ends that: it returns when everything is written, or after most, if
// the reader does not read. The goroutine that waits for such a reader ends with the process.
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

// run writes the waiting lines, until ctx ends and none is left.
func (w *Writer) run(ctx context.Context) {
	var p pen
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

// take removes the first line that waits. If none does, but lines were dropped, it returns an empty
// one after those.
func (w *Writer) take() (line, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		l := line{lost: w.lost}
		w.lost = 0
		return l, l.lost > 0
	}
	l := w.waiting[0]
	w.waiting[0] = line{}
	w.waiting = w.waiting[1:]
	w.size -= len(l.text) + overhead
	return l, true
}

// pen is what run remembers from one line to the next.
type pen struct {
	lost uint64 // lines that the reader refused, or that found no room, and that no notice stands for yet
	cut  bool   // the last line was written in part
}

// put writes one line, and before it the notice of those that were dropped.
func (w *Writer) put(p *pen, l line) {
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

// begin notes when a line is begun.
func (w *Writer) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		w.since = time.Now()
	}
}

// end notes how a line ended.
func (w *Writer) end(err error, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure = err; err == nil {
		w.since = time.Time{}
	}
	if lost {
		w.dropped++
	}
}

// write writes text whole, or returns why the reader refuses it.
func (w *Writer) write(p *pen, text []byte) error {
	if p.cut && len(text) > 0 {
		text = append([]byte{'\n'}, text...)
	}
	for wait := againFirst; len(text) > 0; wait = min(2*wait, againMost) {
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
