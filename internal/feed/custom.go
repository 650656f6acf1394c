package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/untrusted"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// maxCustom is the largest size of the operator's file, in bytes, the same as that of a list of the
// API.
const maxCustom = sikkerapi.BlacklistMaxBytes

// Errors of the operator's file.
var (
	// ErrCustomTooLarge reports that the file has more than 64 MiB.
	ErrCustomTooLarge = errors.New("the file has more than 64 MiB")
	// ErrCustomChanging reports that another program wrote the file while it was read.
	ErrCustomChanging = errors.New("the file changes while it is read")
	// ErrCustomUnended reports that the last line does not end: another program may still be
	// writing it.
	ErrCustomUnended = errors.New("the last line of the file does not end")
)

// CustomFile is the open file of the operator's list. The caller reads and closes it.
type CustomFile struct {
	io.Reader

	file   *os.File
	path   string
	before os.FileInfo
}

// Custom opens the operator's list, or returns nil if none is configured. The caller reads and
// closes it.
func (f *Feed) Custom() (*CustomFile, error) {
	if f.o.Custom == "" {
		return nil, nil
	}
	file, err := untrusted.Open(f.o.Custom)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &CustomFile{
		Reader: untrusted.NewReader(file, maxCustom, ErrCustomTooLarge), file: file, path: f.o.Custom, before: info,
	}, nil
}

// Close closes the file.
func (c *CustomFile) Close() error { return c.file.Close() }

// Whole returns nil if the file was complete and unchanged while it was read. Otherwise the error
// is ErrCustomChanging, ErrCustomUnended, or an error of reading.
func (c *CustomFile) Whole() error {
	after, err := os.Stat(c.path)
	if err != nil {
		return err
	}
	if !sameState(c.before, after) {
		return ErrCustomChanging
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
	return ErrCustomUnended
}

// SameAs reports whether an earlier reading of the file found it in the same state.
func (c *CustomFile) SameAs(earlier *CustomFile) bool {
	return earlier != nil && sameState(earlier.before, c.before)
}

func sameState(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// KeepCustom saves the operator's list, as Keep saves a pulled list.
func (f *Feed) KeepCustom(list blocklist.Blocklist, read time.Time) error {
	if err := f.write(f.o.CustomCopy, list, read, []header{{"file", f.customID()}}); err != nil {
		return fmt.Errorf("keep custom list: %w", err)
	}
	return nil
}

// KeptCustom reads the saved copy of the operator's list. The error is ErrNoCopy, also if the copy
// is of another file, a *DamagedError, or an error of reading.
func (f *Feed) KeptCustom() (Copy, error) {
	if f.o.Custom == "" {
		return Copy{}, ErrNoCopy
	}
	c, extra, err := f.read(f.o.CustomCopy)
	if err == nil && extra["file"] != f.customID() {
		return Copy{}, ErrNoCopy
	}
	return c, err
}

// customID returns the identity of the operator's file, a checksum of its path.
func (f *Feed) customID() string {
	sum := sha256.Sum256([]byte(f.o.Custom))
	return hex.EncodeToString(sum[:])
}
