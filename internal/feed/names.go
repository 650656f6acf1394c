package feed

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

const (
	// namesName is the file in the state directory with the addresses of the names of the API.
	namesName = "names.json"
	// maxNames is its largest size in bytes. It has a few hundred.
	maxNames = 64 << 10
)

var errNamesTooLong = fmt.Errorf("the file has more than %d bytes", maxNames)

// KeepNames saves a text about the names of the API in the state directory, atomically.
func (f *Feed) KeepNames(text []byte) (err error) {
	file, err := f.pending(namesName)
	if err != nil {
		return fmt.Errorf("keep addresses of names: %w", err)
	}
	defer func() { err = errors.Join(err, file.Cleanup()) }() // does nothing after a successful replacement
	if _, err = file.Write(text); err == nil {
		err = f.copies.change(f.o.StateDir, namesName, file.CloseAtomicallyReplace)
	}
	if err != nil {
		return fmt.Errorf("keep addresses of names: %w", err)
	}
	return nil
}

// KeptNames reads the text that KeepNames saved, unchanged. If there is none, the error is
// ErrNoCopy.
func (f *Feed) KeptNames() ([]byte, error) {
	if err := f.o.Guard(); err != nil {
		return nil, fmt.Errorf("read addresses of names: %w", err)
	}
	text, err := readCapped(filepath.Join(f.o.StateDir, namesName), maxNames, errNamesTooLong)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoCopy
	case err != nil:
		return nil, fmt.Errorf("read addresses of names: %w", err)
	}
	_ = f.copies.change(f.o.StateDir, namesName, func() error { return nil })
	return text, nil
}
