package statedir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
)

// other is the ID of a user that is neither root nor the one that runs the tests.
const other = 54321

// own gives path to another user, which needs root.
func own(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		nettest.Skip(t, "only root can give a file away")
	}
	if err := os.Lchown(path, other, other); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write creates a file that belongs to the user of the test.
func write(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte("x"), 0o600))
}

// chmod sets the mode without the umask.
func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	must(t, os.Chmod(path, mode))
}

// TestUse checks that directories as service managers make them are used, and directories that
// another user could change are not.
func TestUse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		want string // part of the error; empty for none
		make func(t *testing.T, root, dir string)
	}{
		{"OK missing with its parents", "", func(*testing.T, string, string) {}},
		{"OK as the package makes it", "", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			write(t, filepath.Join(dir, "blacklist.txt"))
		}},
		{"OK as Kubernetes makes a hostPath", "", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o755))
		}},
		{"OK a file system with lost+found", "", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Join(dir, "lost+found"), 0o700))
		}},
		{"OK systemd's link to /var/lib/private", "", func(t *testing.T, root, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Join(root, "private", "sikkerguard"), 0o700))
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			must(t, os.Symlink("../private/sikkerguard", dir))
		}},
		{"OK an absolute link of root", "", func(t *testing.T, root, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			must(t, os.Symlink(filepath.Join(root, "elsewhere"), dir))
		}},
		{"OK below a sticky directory, such as /tmp", "", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			chmod(t, filepath.Dir(dir), 0o777|fs.ModeSticky)
		}},
		{"bad others may write", "check its contents, then chmod 700 it", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			chmod(t, dir, 0o777)
		}},
		{"bad a tmpfs with the default mode", "chmod 700", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			chmod(t, dir, 0o777|fs.ModeSticky)
		}},
		{"bad a group may write", "chmod 700", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			chmod(t, dir, 0o770)
		}},
		{"bad directory of another user", "belongs to the user with ID 54321", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			own(t, dir)
		}},
		{"bad others may write to its parent", "chmod go-w", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			chmod(t, filepath.Dir(dir), 0o777)
		}},
		{"bad a parent of another user", "belongs to the user with ID 54321", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			own(t, filepath.Dir(dir))
		}},
		{"bad link of another user", "remove the link", func(t *testing.T, root, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Join(root, "elsewhere"), 0o700))
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			must(t, os.Symlink(filepath.Join(root, "elsewhere"), dir))
			own(t, dir)
		}},
		{"bad link of root to a directory where others may write", "chmod 700", func(t *testing.T, root, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Join(root, "elsewhere"), 0o700))
			chmod(t, filepath.Join(root, "elsewhere"), 0o777)
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			must(t, os.Symlink(filepath.Join(root, "elsewhere"), dir))
		}},
		{"bad links in a circle", "too many levels", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			must(t, os.Symlink(dir, dir))
		}},
		{"bad a file", "SIKKER_STATE_DIR must be a directory: use ", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
			write(t, dir)
		}},
		{"bad a link in it", "control.sock is a link: remove it", func(t *testing.T, root, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			must(t, os.Symlink(filepath.Join(root, "victim"), filepath.Join(dir, "control.sock")))
		}},
		{"bad a dangling link in it", "sikkerguard.db is a link: remove it", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			must(t, os.Symlink("/nowhere", filepath.Join(dir, "sikkerguard.db")))
		}},
		{"bad a hard link in it", "sikkerguard.db is a hard link to a file", func(t *testing.T, root, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			write(t, filepath.Join(root, "victim"))
			must(t, os.Link(filepath.Join(root, "victim"), filepath.Join(dir, "sikkerguard.db")))
		}},
		{"bad a file of another user in it", "user with ID 54321: remove it", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			write(t, filepath.Join(dir, "blacklist.txt"))
			own(t, filepath.Join(dir, "blacklist.txt"))
		}},
		{"bad a file in it that others may write", "chmod 600", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			write(t, filepath.Join(dir, "blacklist.txt"))
			chmod(t, filepath.Join(dir, "blacklist.txt"), 0o666)
		}},
		{"bad a FIFO in it, on which a reader would wait", "is not a regular file", func(t *testing.T, _, dir string) {
			t.Helper()
			must(t, os.MkdirAll(dir, 0o700))
			must(t, syscall.Mkfifo(filepath.Join(dir, "blacklist.txt"), 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			chmod(t, root, 0o755)
			dir := filepath.Join(root, "lib", "sikkerguard")
			tt.make(t, root, dir)
			d := statedir.New(dir, false)
			defer func() { _ = d.Close() }()
			err := d.Use()
			if tt.want == "" {
				must(t, err)
				must(t, d.Use()) // a second call succeeds as well
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := os.Lstat(filepath.Join(dir, "lock")); err == nil {
				t.Error("the lock was created in a refused directory")
			}
		})
	}
}

// TestMode checks that a directory that Use creates has mode 0700.
func TestMode(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	d := statedir.New(dir, false)
	must(t, d.Use())
	defer func() { _ = d.Close() }()
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// TestOneAgent checks that one agent at a time has the directory, and the next one once the first
// has ended. A shared Dir does not take part in that.
func TestOneAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second, shared := statedir.New(dir, false), statedir.New(dir, false), statedir.New(dir, true)
	must(t, first.Use())
	must(t, first.Use())
	must(t, shared.Use())
	if err := second.Use(); !errors.Is(err, statedir.ErrTaken) {
		t.Errorf("second: %v, want %v", err, statedir.ErrTaken)
	}
	must(t, first.Close())
	must(t, second.Use())
	defer func() { _ = second.Close() }()
	if err := first.Use(); !errors.Is(err, statedir.ErrTaken) {
		t.Errorf("the first after the second: %v, want %v", err, statedir.ErrTaken)
	}
}

// TestRecreated checks that a directory that the operator removed is created and locked again.
func TestRecreated(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	first, second := statedir.New(dir, false), statedir.New(dir, false)
	must(t, first.Use())
	must(t, os.RemoveAll(dir))
	must(t, first.Use())
	defer func() { _ = first.Close() }()
	if err := second.Use(); !errors.Is(err, statedir.ErrTaken) {
		t.Errorf("second: %v, want %v", err, statedir.ErrTaken)
	}
}
