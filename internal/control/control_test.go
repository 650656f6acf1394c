package control_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sikkerapi/sikkerguard/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, dir string, pull func(context.Context, bool) control.Outcome) {
	t.Helper()
	s := control.New(control.Options{Dir: dir, Pull: pull})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan error, 1)
	go func() { doneC <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "control.sock")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
}

func TestPull(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	serve(t, dir, func(_ context.Context, accept bool) control.Outcome {
		return control.Outcome{OK: accept, Text: "done"}
	})
	for _, accept := range []bool{true, false} {
		got, err := control.Pull(t.Context(), dir, accept)
		if err != nil || got != (control.Outcome{OK: accept, Text: "done"}) {
			t.Errorf("accept %v: got %+v, %v", accept, got, err)
		}
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "control.sock"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode().Perm(), err, mode)
		}
	}
}

// TestPullsFollowEachOther checks that a finished pull frees its place, so that any number of pulls
// can follow one another.
func TestPullsFollowEachOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serve(t, dir, func(context.Context, bool) control.Outcome { return control.Outcome{OK: true} })
	for i := range 100 {
		if got, err := control.Pull(t.Context(), dir, false); err != nil || !got.OK {
			t.Fatalf("pull %d: %+v, %v", i, got, err)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serve(t, dir, func(context.Context, bool) control.Outcome { return control.Outcome{} })
	if err := control.New(control.Options{Dir: dir}).Listen(); !errors.Is(err, control.ErrTaken) {
		t.Errorf("second agent: got %v, want %v", err, control.ErrTaken)
	}
	if _, err := control.Pull(t.Context(), dir, false); err != nil {
		t.Errorf("after the second agent: %v", err)
	}
	// The socket of a killed agent is replaced.
	stale := t.TempDir()
	if err := os.WriteFile(filepath.Join(stale, "control.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, stale, func(context.Context, bool) control.Outcome { return control.Outcome{} })
	// A directory that cannot be made is an error.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := control.New(control.Options{Dir: filepath.Join(file, "state")}).Listen(); err == nil {
		t.Error("made a directory below a file")
	}
}

func TestNoAgent(t *testing.T) {
	t.Parallel()
	if _, err := control.Pull(t.Context(), t.TempDir(), false); err == nil ||
		!strings.Contains(err.Error(), "is it running") {
		t.Errorf("got %v", err)
	}
}

// TestAgentStops checks that a client does not wait for ever if the agent ends during a pull.
func TestAgentStops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	begunC := make(chan struct{})
	s := control.New(control.Options{Dir: dir, Pull: func(ctx context.Context, _ bool) control.Outcome {
		close(begunC)
		<-ctx.Done()
		return control.Outcome{}
	}})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	doneC, askedC := make(chan error, 1), make(chan error, 1)
	go func() { doneC <- s.Run(ctx) }()
	go func() {
		o, err := control.Pull(t.Context(), dir, false)
		if err == nil && o.OK {
			err = errors.New("a pull that was not made has succeeded")
		} else {
			err = nil
		}
		askedC <- err
	}()
	<-begunC
	cancel()
	if err := <-askedC; err != nil {
		t.Error(err)
	}
	if err := <-doneC; err != nil {
		t.Error(err)
	}
}

// TestHealth checks that the health is answered while maxPulls pulls wait and beside connections
// that send nothing.
func TestHealth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var begun atomic.Int32
	s := control.New(control.Options{
		Dir:    dir,
		Health: func() (bool, string) { return false, "unprotected: pull blacklist: 503" },
		Alive:  func() error { return nil },
		Pull: func(ctx context.Context, _ bool) control.Outcome {
			begun.Add(1)
			<-ctx.Done()
			return control.Outcome{}
		},
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan error, 1)
	go func() { doneC <- s.Run(ctx) }()
	const askers = 100
	refusedC := make(chan control.Outcome, askers)
	var asking sync.WaitGroup
	for range askers {
		asking.Go(func() {
			if o, err := control.Pull(t.Context(), dir, false); err == nil && o.Text != "" {
				refusedC <- o
			}
		})
	}
	refused := <-refusedC
	for range 100 { // silent connections
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", filepath.Join(dir, "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	// may have to wait for the header timeout of silent connections
	brief, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	o, err := control.Health(brief, dir)
	if want := (control.Outcome{Text: "unprotected: pull blacklist: 503"}); err != nil || o != want {
		t.Errorf("health: %+v, %v", o, err)
	}
	if o, err := control.Alive(brief, dir); err != nil || !o.OK {
		t.Errorf("alive: %+v, %v", o, err)
	}
	if n := begun.Load(); n > 16 || refused.OK || !strings.Contains(refused.Text, "waiting already") {
		t.Errorf("%d pulls wait; the next gets %+v", n, refused)
	}
	cancel()
	if err := <-doneC; err != nil {
		t.Error(err)
	}
	asking.Wait()
	if _, err := control.Health(t.Context(), dir); err == nil {
		t.Error("answers after the end")
	}
}

// TestRemovedSocket: a socket whose file another program removed or replaced ends with an error, so
// that its owner makes it again, and leaves the other file alone.
func TestRemovedSocket(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(path string) error{
		"removed":  func(string) error { return nil },
		"replaced": func(path string) error { return os.WriteFile(path, []byte("another's"), 0o600) },
	} {
		dir := filepath.Join(t.TempDir(), "state")
		path := filepath.Join(dir, "control.sock")
		s := control.New(control.Options{Dir: dir})
		if err := s.Listen(); err != nil {
			t.Fatal(err)
		}
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(t.Context()) }()
		if err := errors.Join(os.Remove(path), put(path)); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-doneC:
			if err == nil || !strings.Contains(err.Error(), "another program removed its file") {
				t.Errorf("%s: it ends with %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: it continues though no client can reach it", name)
		}
		if _, err := os.Lstat(path); name == "replaced" && err != nil {
			t.Errorf("%s: the other file is gone: %v", name, err)
		}
		if err := s.Listen(); err != nil {
			t.Errorf("%s: it cannot be made again: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
