// Package statedir checks and locks the state directory. Root writes there, so no other user may be
// able to put a file or a link in its place: the directory, each directory above it and each file
// in it must belong to root or to the agent's user, and no other user may be able to write to them.
// A lock in the directory prevents a second agent from using the same files.
//
// Every user of the directory calls Use before it touches a file. The package does not know the
// purpose of the files. Use fails with an *UnsafeError, with ErrTaken, or with an error of the file
// system; each text ends with the remedy.
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
	// maxLinks is the most symbolic links in a path, as in the kernel.
	maxLinks = 40
	// othersWrite are the permission bits that allow other users to write.
	othersWrite = 0o022
)

// ErrTaken means that another agent holds the lock.
var ErrTaken = errors.New("another agent uses this state directory: stop it, or set SIKKER_STATE_DIR to another")

// UnsafeError means that a user other than root and the agent's can change a path, or may have
// changed it.
type UnsafeError struct {
	Path string
	Why  string // the text after the path, which ends with the remedy
}

func (e *UnsafeError) Error() string {
	return fmt.Sprintf("the state directory is not safe to use: %s %s", e.Path, e.Why)
}

// Dir is the state directory. Its methods are safe for concurrent use.
type Dir struct {
	path   string
	shared bool
	uid    uint32 // user ID of the agent

	mu   sync.Mutex
	lock *os.File // nil while the lock is not held
}

// New returns a Dir. If shared is true, Use takes no lock. New opens nothing.
func New(path string, shared bool) *Dir {
	return &Dir{path: path, shared: shared, uid: uint32(os.Geteuid())}
}

// UnusableError is the reason why the files of the state directory must not be used now. Every use
// of the directory fails with it, so it is logged once, by its condition.
type UnusableError struct{ Err error }

func (e *UnusableError) Error() string { return e.Err.Error() }

func (e *UnusableError) Unwrap() error { return e.Err }

// IsUnusable reports whether err is or wraps an *UnusableError.
func IsUnusable(err error) bool {
	_, ok := errors.AsType[*UnusableError](err)
	return ok
}

// Use creates the directory if it is missing, checks it and its files, and takes the lock. If it
// returns nil, its files may be read and written now. Each error is an *UnusableError.
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

// Close releases the lock.
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

// walk descends to the directory, checks each step and creates missing directories. It returns the
// path without links. Each step is safe because the previous one was: only root and the agent can
// change its target.
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
				err = &fs.PathError{Op: "walk", Path: d.path, Err: unix.ELOOP}
				return "", fmt.Errorf("use state directory: %w", err)
			}
			if err := d.checkOwner(next, info, "remove the link, or chown it to root"); err != nil {
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
			err = &fs.PathError{Op: "use", Path: next, Err: unix.ENOTDIR}
			return "", fmt.Errorf("SIKKER_STATE_DIR must be a directory: %w", err)
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

// split returns the names in a path. A ".." stays: filepath.Join resolves it on a path without
// links.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator })
}

// checkParent checks a directory above the state directory. If it has the sticky bit, as /tmp has,
// other users may write to it: they can neither remove nor rename files of others there.
func (d *Dir) checkParent(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("use state directory: %w", err)
	}
	if err := d.checkOwner(path, info, "chown it to root, or set SIKKER_STATE_DIR to another path"); err != nil {
		return err
	}
	if info.Mode()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &UnsafeError{path, "may be written by other users: " +
			"chmod go-w it, or set SIKKER_STATE_DIR to another path"}
	}
	return nil
}

// checkDir checks the state directory itself.
func (d *Dir) checkDir(path string, info fs.FileInfo) error {
	if err := d.checkOwner(path, info, "remove it, or chown it and its contents if you trust them"); err != nil {
		return err
	}
	if info.Mode()&othersWrite != 0 {
		return &UnsafeError{path, "may be written by other users: check its contents, then chmod 700 it"}
	}
	return nil
}

// checkFiles checks the files of the directory. Another user may have put one there while the
// directory was writable.
func (d *Dir) checkFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("use state directory: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile, such as a temporary file
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

// checkFile checks one file. Subdirectories, such as lost+found, are not used.
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
		return &UnsafeError{path, "is not a regular file: remove it"}
	case info.Mode()&othersWrite != 0:
		return &UnsafeError{path, "may be written by other users: " +
			"remove it, or chmod 600 it if you trust its contents"}
	case stat(info).Nlink > 1:
		return &UnsafeError{path, "is a hard link to a file with another name: remove it"}
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
	return info.Sys().(*syscall.Stat_t) // the type that Lstat returns on Linux
}

// take takes the lock, unless it is held already. On a file system without locks the directory is
// used without one.
func (d *Dir) take(path string) error {
	if d.lock != nil {
		held, err := d.lock.Stat()
		now, nerr := os.Lstat(path)
		if err == nil && nerr == nil && os.SameFile(held, now) {
			return nil
		}
		_ = d.lock.Close() // the directory was removed and recreated
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
