package feed

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

// TestSaveNames checks that the text is read after a restart, from a file that only root can read,
// and that the temporary file of an interrupted write is removed. If there is no file, the error is
// ErrNoCopy.
func TestSaveNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := NewDir(dir, nil)
	if _, err := f.Names(); !errors.Is(err, ErrNoCopy) {
		t.Errorf("before: got %v", err)
	}
	left := filepath.Join(dir, ".names.json123")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one\n", "another\n"} {
		if err := f.SaveNames([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := NewDir(dir, nil).Names(); err != nil || string(got) != text {
			t.Errorf("got %q, %v, want %q", got, err, text)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("in the directory: %v, %v", files, err)
	}
	if info, err := os.Stat(filepath.Join(dir, namesName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
}

// TestSaveNamesAsksTheGuard checks that a state directory that must not be used is neither written
// nor read.
func TestSaveNamesAsksTheGuard(t *testing.T) {
	t.Parallel()
	unsafe := errors.New("not safe")
	f := NewDir(t.TempDir(), func() error { return unsafe })
	if err := f.SaveNames([]byte("x")); !errors.Is(err, unsafe) {
		t.Errorf("write: got %v", err)
	}
	if _, err := f.Names(); !errors.Is(err, unsafe) {
		t.Errorf("read: got %v", err)
	}
	if err := NewSaved(f, "blacklist", NewFile("/a")).DropRefused(); !errors.Is(err, unsafe) {
		t.Errorf("remove: got %v", err)
	}
}

// TestNamesRefusesOtherFiles checks that a pipe, at which a reader would wait, and a file that
// is too large are errors.
func TestNamesRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make func(path string) error
		want error
	}{
		"pipe": {func(path string) error { return unix.Mkfifo(path, 0o600) }, untrusted.ErrNotRegular},
		"large": {
			func(path string) error { return os.WriteFile(path, make([]byte, maxNames+1), 0o600) }, errNamesTooLong,
		},
	} {
		dir := t.TempDir()
		if err := tt.make(filepath.Join(dir, namesName)); err != nil {
			t.Fatal(err)
		}
		if _, err := NewDir(dir, nil).Names(); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}
