package enforce

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/memory"
)

// readerOf returns a reader of a file with that text. It runs until the test ends.
func readerOf(t *testing.T, text string) (r *ownReader, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "list.txt")
	rewrite(t, path, text)
	r = newOwnReader(feed.NewFile(path).Open, nil)
	runReader(t, r)
	return r, path
}

func runReader(t *testing.T, r *ownReader) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan error, 1)
	go func() { doneC <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-doneC; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// held returns the entries of the newest reading, or its error.
func held(r *ownReader) string {
	v := r.newest()
	switch {
	case v == nil:
		return "nothing"
	case v.err != nil:
		return v.err.Error()
	}
	var ss []string
	for p := range v.verdict.List.All() {
		ss = append(ss, p.String())
	}
	return strings.Join(ss, " ")
}

func expect(t *testing.T, r *ownReader, when, want string) {
	t.Helper()
	synctest.Wait()
	if got := held(r); got != want {
		t.Errorf("%s: got %q, want %q", when, got, want)
	}
}

// TestOwnReaderWaitsForTheLastLine writes an address in two parts. The first part is another valid
// address.
func TestOwnReaderWaitsForTheLastLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, path := readerOf(t, "203.0.113.1\n203.0.113.4")
		doneC := r.ask()
		expect(t, r, "a line without an end", "nothing")
		time.Sleep(ownSettled - time.Second)
		expect(t, r, "a line without an end, seconds later", "nothing")
		rewrite(t, path, "203.0.113.1\n203.0.113.45\n")
		<-doneC
		expect(t, r, "the whole file", "203.0.113.1/32 203.0.113.45/32")
	})
}

// TestOwnReaderAcceptsAnUnchangedFile reads a file whose editor writes no newline at the end.
func TestOwnReaderAcceptsAnUnchangedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, path := readerOf(t, "203.0.113.1\n203.0.113.2")
		began := time.Now()
		<-r.ask()
		expect(t, r, "a file that stays", "203.0.113.1/32 203.0.113.2/32")
		if took := time.Since(began); took < ownSettled || took > 2*ownSettled {
			t.Errorf("it took %v", took)
		}
		// An ask does not shorten the wait.
		rewrite(t, path, "203.0.113.1\n203.0.113.2\n203.0.113.3")
		for range 4 {
			r.ask()
			time.Sleep(time.Second)
			expect(t, r, "a file that was written again", "203.0.113.1/32 203.0.113.2/32")
		}
		time.Sleep(2 * ownSettled)
		expect(t, r, "later", "203.0.113.1/32 203.0.113.2/32 203.0.113.3/32")
	})
}

// TestOwnReaderRereadsAChangedFile: another program writes the file during each of the first
// readings.
func TestOwnReaderRereadsAChangedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "list.txt")
		text := "203.0.113.1\n"
		rewrite(t, path, text)
		open, writes := feed.NewFile(path).Open, 2
		r := newOwnReader(func() (*feed.OpenFile, error) {
			file, err := open()
			if writes--; writes >= 0 {
				text += "203.0.113.2\n"
				rewrite(t, path, text)
			}
			return file, err
		}, nil)
		runReader(t, r)
		r.ask()
		expect(t, r, "while it is written", "nothing")
		time.Sleep(time.Minute)
		expect(t, r, "afterwards", "203.0.113.1/32 203.0.113.2/32")

		writes = 1 << 30 // without an end
		r.ask()
		time.Sleep(ownWrittenMost + 2*ownReread)
		expect(t, r, "a file that is always written", feed.ErrFileChanging.Error())
	})
}

// TestOwnReaderReportsAHangingFileSystem opens a file that does not answer. That is reported, and
// does not delay the end of Run.
func TestOwnReaderReportsAHangingFileSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "list.txt")
		rewrite(t, path, "203.0.113.1\n")
		open, answerC := feed.NewFile(path).Open, make(chan struct{})
		r := newOwnReader(func() (*feed.OpenFile, error) {
			<-answerC
			return open()
		}, memory.New())
		percent := gcPercent()
		runReader(t, r)
		doneC := r.ask()
		began := time.Now()
		<-doneC
		expect(t, r, "while it hangs", errOwnHangs.Error())
		synctest.Wait()
		if got := gcPercent(); got != percent {
			t.Errorf("while it hangs, the GC percentage is %d, want %d", got, percent)
		}
		if took := time.Since(began); took != ownReadMost {
			t.Errorf("it was reported after %v", took)
		}
		close(answerC)
		expect(t, r, "when it answers", "203.0.113.1/32")

		stuck := newOwnReader(func() (*feed.OpenFile, error) {
			<-t.Context().Done()
			return nil,
				errors.New("too late")
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		endC := make(chan error, 1)
		go func() { endC <- stuck.Run(ctx) }()
		stuck.ask()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case err := <-endC:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("it does not end while the file system hangs")
		}
	})
}

// TestOwnReaderMayBeNil has no list configured.
func TestOwnReaderMayBeNil(t *testing.T) {
	t.Parallel()
	var r *ownReader
	<-r.ask()
	if r.newest() != nil || r.news() != nil {
		t.Error("a reader that is absent has a reading")
	}
}
