package feed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// namesName is the file in the state directory with the addresses of names that the feed is
	// reached by.
	namesName = "names.json"
	// maxNames is how many bytes of it are read. It has a few hundred.
	maxNames = 64 << 10
)

// KeepNames keeps a text about the names that the API is reached by in the state directory,
// atomically.
func (f *Feed) KeepNames(text []byte) (err error) {
	file, err := f.pending(namesName)
	if err != nil {
		return fmt.Errorf("keep addresses of names: %w", err)
	}
	defer func() { err = errors.Join(err, file.Cleanup()) }() // does nothing once it has replaced the old one
	if _, err = file.Write(text); err == nil {
		err = f.copies.change(f.o.StateDir, namesName, file.CloseAtomicallyReplace)
	}
	if err != nil {
		return fmt.Errorf("keep addresses of names: %w", err)
	}
	return nil
}

// KeptNames reads the text that KeepNames kept, as it is. The error is ErrNoCopy if there is none, or
// one of reading. A text that is too long is cut.
func (f *Feed) KeptNames() ([]byte, error) {
	if err := f.o.Guard(); err != nil {
		return nil, fmt.Errorf("read addresses of names: %w", err)
	}
	file, err := os.Open(filepath.Join(f.o.StateDir, namesName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoCopy
	case err != nil:
		return nil, fmt.Errorf("read addresses of names: %w", err)
	}
	defer func() { _ = file.Close() }() // nothing was written
	text, err := io.ReadAll(io.LimitReader(file, maxNames))
	if err != nil {
		return nil, fmt.Errorf("read addresses of names: %w", err)
	}
	_ = f.copies.change(f.o.StateDir, namesName, func() error { return nil })
	return text, nil
}
