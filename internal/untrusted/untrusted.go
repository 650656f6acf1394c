// Package untrusted reads files and streams from outside SikkerGuard. It opens regular files alone,
// because opening a pipe waits for its writer. Its Reader fails beyond a number of bytes, so that a
// stream without an end does not fill the memory.
//
// The errors are those of the file system and of the stream, ErrNotRegular, and the error that the
// caller chose for a stream that is too long.
package untrusted

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// ErrNotRegular means that a path leads to a directory, a device, a pipe or a socket.
var ErrNotRegular = errors.New("it is not a regular file")

// Open opens the regular file that path leads to. The error is an *fs.PathError. It is
// ErrNotRegular if path leads to something else.
func Open(path string) (*os.File, error) { return open(path, os.Stat) }

// OpenNoLink is Open for a path that must not be a symbolic link: that is ErrNotRegular too.
func OpenNoLink(path string) (*os.File, error) { return open(path, os.Lstat) }

// open asks stat before it opens, because opening a pipe waits for a writer.
func open(path string, stat func(string) (fs.FileInfo, error)) (*os.File, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	return os.Open(path)
}

// Reader reads from another reader. It returns the first bytes, up to a limit, and an error if
// there are more.
type Reader struct {
	r       io.Reader
	left    int64 // below 0 after a byte beyond the limit
	tooLong error
}

// NewReader returns a Reader of r that fails with tooLong beyond limit bytes.
func NewReader(r io.Reader, limit int64, tooLong error) *Reader {
	return &Reader{r: r, left: limit, tooLong: tooLong}
}

// Read implements io.Reader. After tooLong it returns tooLong again.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.left < 0 {
		return 0, r.tooLong
	}
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1] // the one byte beyond the limit shows that there are more
	}
	n, err := r.r.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return n - 1, r.tooLong
	}
	return n, err
}
