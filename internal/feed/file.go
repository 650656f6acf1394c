package feed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// maxFile is the largest size of the operator's file, in bytes, the same as that of a list of the
// API.
const maxFile = sikkerapi.BlacklistMaxBytes

// Errors of the operator's file.
var (
	// ErrFileTooLarge reports that the file has more than 64 MiB.
	ErrFileTooLarge = errors.New("the file has more than 64 MiB")
	// ErrFileChanging reports that another program wrote the file while it was read.
	ErrFileChanging = errors.New("the file changes while it is read")
	// ErrFileUnended reports that the last line does not end: another program may still be
	// writing it.
	ErrFileUnended = errors.New("the last line of the file does not end")
)

// OpenFile is the open file of the operator's list. The caller reads and closes it.
type OpenFile struct {
	io.Reader

	file   *os.File
	path   string
	before os.FileInfo
}

// File is the feed of the operator's file.
type File struct{ path string }

// NewFile returns the feed of the file at path. It opens nothing yet.
func NewFile(path string) *File { return &File{path: path} }

// FileName is the name of the feed of the operator's file.
const FileName = "custom"

// Name returns FileName.
func (f *File) Name() string { return FileName }

// Identity returns the path as the origin.
func (f *File) Identity() Identity {
	sum := checksum(f.path)
	return Identity{From: f.path, Request: sum, Source: sum}
}

// Fetch is Open. A file system that hangs delays it, whatever ctx.
func (f *File) Fetch(context.Context) (io.ReadCloser, error) { return f.Open() }

// Open opens the file. The caller reads and closes it.
func (f *File) Open() (*OpenFile, error) {
	file, err := untrusted.Open(f.path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &OpenFile{
		Reader: untrusted.NewReader(file, maxFile, ErrFileTooLarge), file: file, path: f.path, before: info,
	}, nil
}

// Close closes the file.
func (c *OpenFile) Close() error { return c.file.Close() }

// Whole returns nil if the file was complete and unchanged while it was read. Otherwise the error
// is ErrFileChanging, ErrFileUnended, or an error of reading.
func (c *OpenFile) Whole() error {
	after, err := os.Stat(c.path)
	if err != nil {
		return err
	}
	if !sameState(c.before, after) {
		return ErrFileChanging
	}
	size := after.Size()
	head, tail := make([]byte, min(2, size)), make([]byte, min(2, size))
	for at, part := range map[int64][]byte{0: head, size - int64(len(tail)): tail} {
		if _, err := c.file.ReadAt(part, at); err != nil {
			return err
		}
	}
	switch {
	case size == 0, bytes.Equal(head, []byte{0x1f, 0x8b}): // a gzip file marks its own end
		return nil
	case tail[len(tail)-1] == '\n', bytes.Equal(tail, []byte("\n\x00")): // the latter in UTF-16
		return nil
	}
	return ErrFileUnended
}

// SameAs reports whether an earlier reading of the file found it in the same state.
func (c *OpenFile) SameAs(earlier *OpenFile) bool {
	return earlier != nil && sameState(earlier.before, c.before)
}

func sameState(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
