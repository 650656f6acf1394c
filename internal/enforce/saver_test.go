package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestSaverWritesTheNewest: a full disk is tried again, at least every minute. A disk that hangs
// delays no caller and is reported. When it continues, the newest value is written.
func TestSaverWritesTheNewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			mu      sync.Mutex
			reports []string
			written []int
		)
		s := newSaver(func(err error, changed bool) {
			mu.Lock()
			defer mu.Unlock()
			reports = append(reports, fmt.Sprint(err, " ", changed))
		})
		save := func(n int, err *error, hangs time.Duration) {
			t.Helper()
			began := time.Now()
			s.save(func() error {
				time.Sleep(hangs)
				mu.Lock()
				defer mu.Unlock()
				if *err == nil {
					written = append(written, n)
				}
				return *err
			})
			if time.Since(began) > 0 {
				t.Errorf("%d: save waits", n)
			}
		}
		check := func(when string, pending bool, wantReports []string, wantWritten ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if s.pending() != pending || !slices.Equal(reports, wantReports) || !slices.Equal(written, wantWritten) {
				t.Errorf("%s: pending %v, reports %q, written %v", when, s.pending(), reports, written)
			}
			reports, written = nil, nil
		}
		full := errors.New("no space left on device")
		save(1, &full, 0)
		check("full", true, []string{"no space left on device true"})
		began := time.Now()
		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		if n, least := len(reports), int(time.Since(began)/(2*saveRetryMost)); n < least || n > 100 ||
			slices.Contains(reports, "no space left on device true") {
			t.Errorf("tried %d times in an hour, reports %q", n, reports)
		}
		reports, full = nil, nil
		mu.Unlock()
		time.Sleep(2 * saveRetryMost)
		check("there is room", false, []string{"<nil> true"}, 1)
		time.Sleep(time.Hour)
		check("later", false, nil)

		save(2, &full, time.Hour)
		time.Sleep(saveMost + time.Nanosecond)
		check("it hangs", true, []string{errSaving.Error() + " true"})
		save(3, &full, 0)
		save(4, &full, 0)
		check("it still hangs", true, nil)
		time.Sleep(time.Hour)
		check("it goes on", false, []string{"<nil> true"}, 2, 4)
		long := errors.New("no space left on device")
		save(6, &long, time.Second)
		save(7, &full, 0)
		time.Sleep(time.Second)
		check("the newest is written at once after a failure", false, []string{long.Error() + " true", "<nil> true"}, 7)
		save(8, &long, 0)
		synctest.Wait()
		mu.Lock()
		long, reports = nil, nil
		mu.Unlock()
		time.Sleep(2 * saveRetryFirst)
		check("the waits begin short again", false, []string{"<nil> true"}, 8)
		save(5, &full, 0)
		check("as before", false, []string{"<nil> false"}, 5)
		s.save(func() error { panic("no such disk") })
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !s.pending() || len(reports) != 1 {
			t.Errorf("a write that panics: pending %v, reports %q", s.pending(), reports)
		}
	})
}

// TestStopWaitsForSavers: a list that becomes active just before the agent ends is written, and so
// is the newest one. The end does not wait for a disk that hangs.
func TestStopWaitsForSavers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := newEnforcer(t)
		var (
			mu      sync.Mutex
			written []string
			failed  int
		)
		write := func(name string, hangs time.Duration) func() error {
			return func() error {
				time.Sleep(hangs)
				mu.Lock()
				defer mu.Unlock()
				written = append(written, name)
				return nil
			}
		}
		e.sikker().saver.save(write("list", time.Second))
		e.sikker().saver.save(write("newer list", time.Second))
		e.own.saver.save(write("own list", 100*time.Millisecond))
		e.sikker().refusedSaver.save(write("refused list", time.Hour))
		e.names.saver.save(write("names", time.Hour))
		e.remotes = append(e.remotes, e.newRemote(Remote{}))
		e.remotes[1].refusedSaver.save(func() error {
			mu.Lock()
			defer mu.Unlock()
			failed++
			return errors.New("no space left on device")
		})
		began := time.Now()
		e.endSavers()
		if took := time.Since(began); took != saveMost {
			t.Errorf("the end took %v", took)
		}
		synctest.Wait()
		mu.Lock()
		if want := []string{"own list", "list", "newer list"}; !slices.Equal(written, want) {
			t.Errorf("written %v, want %v", written, want)
		}
		tries := failed
		mu.Unlock()
		time.Sleep(2 * time.Hour) // the writers end
		mu.Lock()
		defer mu.Unlock()
		if failed > tries {
			t.Errorf("a write is tried %d times after the end", failed-tries)
		}
	})
}

// TestHangingDiskDelaysNothing: while the active list is written to a disk that hangs, the
// allowlist follows the host, and the status reports the disk.
func TestHangingDiskDelaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "list.txt")
		rewrite(t, path, "203.0.113.9\n")
		e, logs := newEnforcer(t, "SIKKER_CUSTOM_BLACKLIST="+path)
		e.o.Host, e.backend.fw = host.New(host.Options{Root: t.TempDir()}), &stubborn{}
		resumedC := make(chan struct{})
		hang := func() error { <-resumedC; return nil }
		e.sikker().saver.save(hang)
		e.own.saver.save(hang)
		e.sikker().list.entries, e.own.list = listOf("198.51.100.1/32", "198.51.100.2/32"), listOf("203.0.113.9/32")
		began := time.Now()
		e.saveList(e.sikker())
		e.saveOwn()
		e.surveys.publish(survey{allow: listOf("198.51.100.2/32")})
		e.applySurvey(t.Context())
		took := time.Since(began)
		if took > saveMost/2 || e.active.rules == nil ||
			!e.active.rules.allow.Contains(netip.MustParseAddr("198.51.100.2")) {
			t.Errorf("after %v active: %+v", took, e.active.rules)
		}
		time.Sleep(10 * saveMost)
		synctest.Wait()
		if s := e.o.Board.Latest(); !s.Holds(status.CondUnkept) || s.State != status.StateDegraded {
			t.Errorf("while it hangs: %s %q", s.State, s.Reason)
		}
		for _, text := range []string{"The list cannot be saved", "The custom blacklist cannot be saved yet"} {
			if n := logs.FilterMessageSnippet(text).Len(); n != 1 {
				t.Errorf("%q is logged %d times", text, n)
			}
		}
		close(resumedC)
		settle(e)
		if s := e.o.Board.Latest(); s.Holds(status.CondUnkept) {
			t.Errorf("afterwards: %s %q", s.State, s.Reason)
		}
	})
}

// TestHangingDiskDelaysAStartOnce: a start reads its files at the same time. If the disk of all of
// them hangs, and the custom blacklist, DNS and the gateway hang also, the first pulled list is active
// after readMost.
func TestHangingDiskDelaysAStartOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, b := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		resumedC := make(chan struct{})
		dir := feed.NewDir(t.TempDir(), func() error { <-resumedC; return nil })
		file := feed.NewFile(filepath.Join(t.TempDir(), "list.txt"))
		e.o.StateDir, e.o.Own = dir, &Own{File: file, Saved: feed.NewSaved(dir, "custom", file)}
		e.own.reader = newOwnReader(func() (*feed.OpenFile, error) { <-resumedC; return file.Open() }, nil)
		e.o.Host = &slowHost{silent: true, names: time.Hour, k: &counting{}}
		for _, r := range e.remotes {
			r.saved = feed.NewSaved(dir, r.feed.Name(), r.feed)
		}
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 2)
		go func() { doneC <- e.Run(ctx) }()
		go func() { doneC <- e.ReadOwn(ctx) }()
		time.Sleep(readMost + baselineGrace)
		synctest.Wait()
		if a.fetches() != 1 || b.fetches() != 1 {
			t.Errorf("the feeds were pulled %d and %d times", a.fetches(), b.fetches())
		}
		if !k.drops("203.0.113.1") && !k.drops("198.51.100.1") {
			t.Error("no list is active")
		}
		time.Sleep(time.Second) // checks before the second list, while the first is active
		synctest.Wait()
		wantDropped(t, k, true, "203.0.113.1", "198.51.100.1")
		cancel()
		for range 2 {
			if err := <-doneC; err != nil {
				t.Error(err)
			}
		}
		close(resumedC)
		settle(e)
	})
}

// settle waits until every value is written, however long a busy disk takes. A write that failed is
// not repeated.
func settle(e *Enforcer) {
	for _, s := range e.savers() {
		s.wait(nil)
	}
}

// TestListIsSavedWhenTheDiskHasSpace: a list that could not be saved is saved as soon as the disk
// works. Until then the status reports it.
func TestListIsSavedWhenTheDiskHasSpace(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.a.sikker().saver.backoff = clock.NewBackoff(time.Second, time.Second) // the test is in a hurry
	inTheWay := filepath.Join(l.dir, "blacklist.txt")
	if err := os.MkdirAll(inTheWay, 0o700); err != nil { // stands for a disk that takes nothing
		t.Fatal(err)
	}
	l.want(false, true, "Blocking 4 IPs")
	settle(l.a)
	l.wantConditions(status.CondUnkept)
	if s := l.a.o.Board.Status(); s.State != status.StateDegraded || !strings.Contains(s.Reason, "save list") {
		t.Errorf("%s %q", s.State, s.Reason)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); l.a.sikker().saver.pending() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	l.wantConditions()
	if c, err := l.a.sikker().saved.Load(nil); err != nil || c.Entries != 4 {
		t.Errorf("saved: %d entries, %v", c.Entries, err)
	}
}
