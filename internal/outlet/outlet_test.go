package outlet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/outlet"
)

func notice(lost uint64) []byte { return fmt.Appendf(nil, "lost %d\n", lost) }

// reader is a log reader that refuses, accepts a part or waits, as its fields say.
type reader struct {
	mu    sync.Mutex
	text  bytes.Buffer
	err   error         // result of each write
	part  int           // bytes that are accepted before the error
	waitC chan struct{} // if not nil, each write waits until it is closed
}

func (r *reader) Write(text []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waitC := r.waitC; waitC != nil {
		r.mu.Unlock()
		<-waitC
		r.mu.Lock()
	}
	if r.err != nil {
		r.text.Write(text[:r.part])
		return r.part, r.err
	}
	return r.text.Write(text)
}

func (r *reader) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *reader) read() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

// TestReaderThatDoesNotRead checks that writing goes on and lines that find no room are counted.
// When the reader reads again, it gets the waiting lines, and then the number of the missing ones
// in their place.
func TestReaderThatDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		waitC := make(chan struct{})
		r := &reader{waitC: waitC}
		w := outlet.New(r, notice)
		flush := w.Start()
		const lines, long = 2000, 1000
		for i := range lines {
			write(t, w, fmt.Sprintf("%0*d\n", long-1, i))
		}
		dropped := w.Dropped()
		if dropped < lines/3 || dropped > lines*2/3 { // a mebibyte holds about a thousand of them
			t.Errorf("%d of %d lines of %d bytes were dropped", dropped, lines, long)
		}
		if w.Stalled() == nil {
			t.Error("lines are dropped, and Stalled returns nil")
		}
		close(waitC)
		synctest.Wait()
		write(t, w, "after\n")
		flush(time.Second)
		got := strings.Split(r.read(), "\n")
		kept := lines - int(dropped)
		if len(got) != kept+3 || got[kept] != fmt.Sprintf("lost %d", dropped) || got[kept+1] != "after" {
			t.Errorf("%d lines, at the end %q", len(got), got[max(0, len(got)-3):])
		}
		if err := w.Stalled(); err != nil || w.Dropped() != dropped {
			t.Errorf("afterwards %v, %d dropped", err, w.Dropped())
		}
	})
}

// TestStalled checks that a reader counts as stalled when one line takes ten seconds, and no longer
// once that line is written.
func TestStalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		waitC := make(chan struct{})
		r := &reader{waitC: waitC}
		w := outlet.New(r, notice)
		flush := w.Start()
		write(t, w, "one\n")
		time.Sleep(9 * time.Second)
		if err := w.Stalled(); err != nil {
			t.Errorf("after nine seconds: %v", err)
		}
		time.Sleep(2 * time.Second)
		if w.Stalled() == nil {
			t.Error("not stalled after eleven seconds")
		}
		close(waitC)
		synctest.Wait()
		if err := w.Stalled(); err != nil || w.Dropped() != 0 {
			t.Errorf("afterwards: %v, %d dropped", err, w.Dropped())
		}
		flush(time.Second)
	})
}

// TestReaderThatFails checks that a closed pipe or a full disk costs only the lines that it
// refuses, and that Stalled returns the error at once.
func TestReaderThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &reader{}
		w := outlet.New(r, notice)
		flush := w.Start()
		write(t, w, "one\n")
		synctest.Wait()
		r.set(func() { r.err, r.part = unix.ENOSPC, 2 })
		write(t, w, "two\n")
		write(t, w, "three\n")
		synctest.Wait()
		if err := w.Stalled(); !errors.Is(err, unix.ENOSPC) || w.Dropped() != 2 {
			t.Errorf("%v, %d dropped, want ENOSPC and 2", err, w.Dropped())
		}
		r.set(func() { r.err = nil })
		write(t, w, "four\n")
		synctest.Wait()
		if err := w.Stalled(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		flush(time.Second)
		// A line of which only a part was written ends before the next line begins.
		if diff := cmp.Diff("one\ntw\nl\nlost 2\nfour\n", r.read()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestNonBlocking checks that a pipe that another program has set to non-blocking mode loses no
// line.
func TestNonBlocking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &reader{err: unix.EAGAIN, part: 1}
		w := outlet.New(r, notice)
		flush := w.Start()
		write(t, w, "one\n")
		time.Sleep(20 * time.Millisecond)
		r.set(func() { r.err = nil })
		flush(10 * time.Second)
		if got := r.read(); got != "one\n" || w.Dropped() != 0 {
			t.Errorf("got %q, %d dropped", got, w.Dropped())
		}
	})
}

// TestFlushIsBounded checks that the end of the process does not wait for a reader that does not
// read.
func TestFlushIsBounded(t *testing.T) {
	t.Parallel()
	read, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = read.Close() }()
	w := outlet.New(pipe, nil)
	flush := w.Start()
	for range 100 {
		write(t, w, strings.Repeat("x", 4096))
	}
	start := time.Now()
	flush(100 * time.Millisecond)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	if err := pipe.Close(); err != nil {
		t.Error(err)
	}
}

// TestChangedC checks that the beginning and the end of each trouble are told, once, and that lines
// which get through tell nothing.
func TestChangedC(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &reader{}
		w := outlet.New(r, notice)
		flush := w.Start()
		step := func(name string, stalled bool, change func()) {
			t.Helper()
			change()
			write(t, w, "line\n")
			time.Sleep(11 * time.Second)
			synctest.Wait()
			select {
			case <-w.ChangedC():
				if (w.Stalled() != nil) != stalled {
					t.Errorf("%s: told, with %v", name, w.Stalled())
				}
			default:
				t.Errorf("%s: not told", name)
			}
			write(t, w, "line\n")
			time.Sleep(11 * time.Second)
			synctest.Wait()
			if len(w.ChangedC()) != 0 {
				t.Errorf("%s: told twice", name)
			}
		}
		write(t, w, "line\n")
		time.Sleep(time.Minute)
		if len(w.ChangedC()) != 0 {
			t.Error("told of a line that got through")
		}
		step("the reader refuses", true, func() { r.set(func() { r.err = errors.New("no space left on device") }) })
		step("it takes lines again", false, func() { r.set(func() { r.err = nil }) })
		waitC := make(chan struct{})
		step("the reader waits", true, func() { r.set(func() { r.waitC = waitC }) })
		step("it reads again", false, func() {
			r.set(func() { r.waitC = nil })
			close(waitC)
		})
		flush(time.Second)
	})
}
