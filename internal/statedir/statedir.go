// Package statedir guards the state directory. Root writes there, so no other user may be able to put
// a file or a link in its place: the directory, each directory above it and each file in it belong
// to root or to the agent's user, and no other user may write to them. A lock in it keeps a second
// agent from the same files.
//
// Use is the one check that every user of the directory passes before it touches a file. What the
// files are is not its concern. It fails with an *UnsafeError, with ErrTaken, or with the error of
// the file system; each says what to do.
package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	lockName = "lock"
	// maxLinks is how many symbolic links a path may have, as in the kernel.
	maxLinks = 40
	// othersWrite are the permission bits that let others write.
	othersWrite = 0o022
)

// ErrTaken means that another agent has the lock.
var ErrTaken = errors.New("another agent uses this state directory: stop it, or set SIKKER_STATE_DIR to another")

// UnsafeError is a path that a user other than root and the agent's may change, or may have
// changed.
type UnsafeError struct {
	Path string
	Why  string // follows the path, and says what to do
}

func (e *UnsafeError) Error() string {
	return fmt.Sprintf("the state directory is not safe to use: %s %s", e.Path, e.Why)
}

// Dir is the state directory. Its methods may be called from several goroutines.
type Dir struct {
	path   string
	shared bool
	uid    uint32 // of the agent

	mu   sync.Mutex
	lock *os.File // nil while it is not held
}

// New makes a Dir. A shared one takes no lock. Nothing is opened yet.
func New(path string, shared bool) *Dir {
	return &Dir{path: path, shared: shared, uid: uint32(os.Geteuid())}
}

// UnusableError is the reason why the files of the state directory must not be used now. Everything that uses the
// directory fails with it, so it is logged once, by its condition.
type UnusableError struct{ Err error }

func (e *UnusableError) Error() string { return e.Err.Error() }

func (e *UnusableError) Unwrap() error { return e.Err }

// IsUnusable reports whether err is or wraps an *UnusableError.
func IsUnusable(err error) bool {
	_, ok := errors.AsType[*UnusableError](err)
	return ok
}

// Use makes the directory if it is missing, checks it and its files, and takes the lock. If it returns nil, its files may be
// read and written now. Each error is an *UnusableError.
func (d *Dir) Use() error {
	if err := d.use(); err != nil {
		return &UnusableError{err}
	}
	return nil
}

func (d *Dir) use() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.walk()
	if err != nil {
		return err
	}
	if err := d.checkFiles(dir); err != nil {
		return err
	}
	if d.shared {
		return nil
	}
	return d.take(filepath.Join(dir, lockName))
}

// Close lets go of the lock.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}

// walk goes down to the directory, checks each step, makes missing ones, and returns the path
// without links. A step is safe to take because the one before it was: only root and the agent can
// change where it leads.
func (d *Dir) walk() (string, error) {
	at, rest := "/", split(d.path)
	if err := d.checkParent(at); err != nil {
		return "", err
	}
	for links := 0; len(rest) > 0; {
		next, last := filepath.Join(at, rest[0]), len(rest) == 1
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.Mkdir(next, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
				info, err = os.Lstat(next)
			}
		}
		if err != nil {
			return "", fmt.Errorf("use state directory: %w", err)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", fmt.Errorf("use state directory: %w", &fs.PathError{Op: "walk", Path: d.path, Err: unix.ELOOP})
			}
			if err := d.checkOwner(next, info, "remove the link, or make it root's"); err != nil {
				return "", err
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", fmt.Errorf("use state directory: %w", err)
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(split(target), rest[1:]...)
			continue
		case !info.IsDir():
			return "", fmt.Errorf("SIKKER_STATE_DIR must be a directory: %w", &fs.PathError{Op: "use", Path: next, Err: unix.ENOTDIR})
		case last:
			err = d.checkDir(next, info)
		default:
			err = d.checkParent(next)
		}
		if err != nil {
			return "", err
		}
		at, rest = next, rest[1:]
	}
	return at, nil
}

// split returns the names that a path consists of. A ".." stays: filepath.Join takes it from a path
// without links.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator })
}

// checkParent checks a directory on the way. Others may write to one with the sticky bit, such as
// /tmp: there they can neither remove nor rename files of other users.
func (d *Dir) checkParent(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("use state directory: %w", err)
	}
	if err := d.checkOwner(path, info, "chown it to root, or set SIKKER_STATE_DIR to another place"); err != nil {
		return err
	}
	if info.Mode()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &UnsafeError{path, "may be written by other users: chmod go-w it, or set SIKKER_STATE_DIR to another place"}
	}
	return nil
}

// checkDir checks the directory itself.
func (d *Dir) checkDir(path string, info fs.FileInfo) error {
	if err := d.checkOwner(path, info, "remove it, or chown it and what is in it if you trust that"); err != nil {
		return err
	}
	if info.Mode()&othersWrite != 0 {
		return &UnsafeError{path, "may be written by other users: look at what is in it, then chmod 700 it"}
	}
	return nil
}

// checkFiles checks the files of the directory: something may have been put there while others could
// write to it.
func (d *Dir) checkFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("use state directory: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) { // removed just now, as temporary files are
			continue
		}
		if err != nil {
			return fmt.Errorf("use state directory: %w", err)
		}
		if err := d.checkFile(filepath.Join(dir, entry.Name()), info); err != nil {
			return err
		}
	}
	return nil
}

// checkFile checks one file. Directories, such as lost+found, are not used.
func (d *Dir) checkFile(path string, info fs.FileInfo) error {
	if info.IsDir() {
		return nil
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return &UnsafeError{path, "is a link: remove it"}
	}
	if err := d.checkOwner(path, info, "remove it"); err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSocket != 0:
	case !info.Mode().IsRegular():
		return &UnsafeError{path, "is no regular file: remove it"}
	case info.Mode()&othersWrite != 0:
		return &UnsafeError{path, "may be written by other users: remove it, or chmod 600 it if you trust what is in it"}
	case stat(info).Nlink > 1:
		return &UnsafeError{path, "is a link to a file that has another name, too: remove it"}
	}
	return nil
}

// checkOwner checks that path belongs to root or to the agent's user.
func (d *Dir) checkOwner(path string, info fs.FileInfo, remedy string) error {
	if uid := stat(info).Uid; uid != 0 && uid != d.uid {
		return &UnsafeError{path, fmt.Sprintf("belongs to the user with ID %d: %s", uid, remedy)}
	}
	return nil
}

func stat(info fs.FileInfo) *syscall.Stat_t {
	return info.Sys().(*syscall.Stat_t) // what Lstat returns on Linux
}

// take takes the lock, unless it is held already. A file system without locks is used without.
func (d *Dir) take(path string) error {
	if d.lock != nil {
		held, err := d.lock.Stat()
		now, nerr := os.Lstat(path)
		if err == nil && nerr == nil && os.SameFile(held, now) {
			return nil
		}
		_ = d.lock.Close() // the directory was removed and made again
		d.lock = nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("use state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil, errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		d.lock = f
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = ErrTaken
	}
	return errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
}
