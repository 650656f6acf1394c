package feed

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

// Dir is the state directory as the place of saved files. Its methods may be called by any
// goroutine.
type Dir struct {
	path   string
	guard  func() error
	copies copies
}

// NewDir returns the Dir at path. guard makes the directory if it does not exist, and returns an
// error if its files must not be used now. If guard is nil, the Dir only makes the directory.
func NewDir(path string, guard func() error) *Dir {
	if guard == nil {
		guard = func() error { return os.MkdirAll(path, 0o700) }
	}
	return &Dir{path: path, guard: guard}
}

// save replaces a file of the directory by the text that write writes, atomically. The error names
// that file.
func (d *Dir) save(name string, write func(w io.Writer) error) (err error) {
	if err := d.guard(); err != nil {
		return err
	}
	d.sweep(name)
	path := filepath.Join(d.path, name)
	defer func() { err = namedAs(path, err) }()
	file, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600),
		renameio.WithTempDir(d.path)) // not in TMPDIR, which others may write to and sweep does not see
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, file.Cleanup()) }() // does nothing after a successful replacement
	if err := write(file); err != nil {
		return err
	}
	return d.copies.change(d.path, name, file.CloseAtomicallyReplace)
}

// namedAs returns err with path in place of a temporary file, whose name differs each time: a
// condition that lasts keeps its text.
func namedAs(path string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: e.Op, Path: path, Err: e.Err}
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return &fs.PathError{Op: e.Op, Path: path, Err: e.Err}
	}
	return err
}

// sweep removes temporary files of a process that was killed while it wrote a file.
func (d *Dir) sweep(name string) {
	left, err := filepath.Glob(filepath.Join(d.path, "."+name+"*")) // the names that renameio gives its files
	if err != nil {
		return
	}
	for _, path := range left {
		_ = os.Remove(path) // a file that stays takes only some space
	}
}

// remove removes a file, if there is one.
func (d *Dir) remove(name string) error {
	if err := d.guard(); err != nil {
		return err
	}
	return d.copies.change(d.path, name, func() error {
		if err := os.Remove(filepath.Join(d.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// read returns the content of a regular file of at most limit bytes. Its errors are those of stream.
func (d *Dir) read(name string, limit int64, tooLong error) ([]byte, error) {
	var raw []byte
	err := d.stream(name, limit, tooLong, func(r io.Reader) { raw, _ = io.ReadAll(r) }) // stream returns the error
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// stream calls use with the content of a regular file of at most limit bytes. The error is that of
// opening the file, or of use's reading. If the file has more bytes, it is tooLong; if there is no
// file, it is ErrNoCopy.
func (d *Dir) stream(name string, limit int64, tooLong error, use func(io.Reader)) error {
	if err := d.guard(); err != nil {
		return err
	}
	file, err := untrusted.OpenNoLink(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoCopy
	}
	if err != nil {
		return err
	}
	r := reading{r: untrusted.NewReader(file, limit, tooLong)}
	use(&r)
	if err := errors.Join(r.err, file.Close()); err != nil {
		return err
	}
	_ = d.copies.change(d.path, name, func() error { return nil })
	return nil
}

// reading stores the error of a reader, which the parser that reads from it may not return.
type reading struct {
	r   io.Reader
	err error // nil at the end of the file
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// lost reports whether another program removed, replaced or changed a file since this process wrote
// or read it.
func (d *Dir) lost(name string) bool { return d.copies.lost(d.path, name) }

// copies holds the state of each copy when this process last wrote or read it.
type copies struct {
	mu    sync.Mutex // held while a copy is replaced or examined; the disk may hang meanwhile
	files map[string]os.FileInfo
}

// change calls f, which reads or replaces a copy, and stores the state of the copy. If f fails, the
// previous state stays.
func (c *copies) change(dir, name string, f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f(); err != nil {
		return err
	}
	if c.files == nil {
		c.files = map[string]os.FileInfo{}
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	if err != nil { // f or another program removed it in this moment
		delete(c.files, name)
		return nil
	}
	c.files[name] = info
	return nil
}

// forget drops the state of a copy.
func (c *copies) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.files, name)
}

// lost reports whether the state of a copy differs from the one that change stored.
func (c *copies) lost(dir, name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.files[name]
	if known == nil {
		return false
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	return err != nil || !sameState(known, info)
}
