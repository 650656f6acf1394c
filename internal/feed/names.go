package feed

import (
	"errors"
	"fmt"
)

const (
	// namesName is the file in the state directory with the addresses of the names of the API.
	namesName = "names.json"
	// maxNames is its largest size in bytes. It has a few hundred.
	maxNames = 64 << 10
)

var errNamesTooLong = fmt.Errorf("the file has more than %d bytes", maxNames)

// SaveNames saves a text about the names of the API in the state directory, atomically.
func (d *Dir) SaveNames(text []byte) (err error) {
	file, err := d.pending(namesName)
	if err != nil {
		return fmt.Errorf("save addresses of names: %w", err)
	}
	defer func() { err = errors.Join(err, file.Cleanup()) }() // does nothing after a successful replacement
	if _, err = file.Write(text); err == nil {
		err = d.replace(namesName, file)
	}
	if err != nil {
		return fmt.Errorf("save addresses of names: %w", err)
	}
	return nil
}

// Names reads the text that SaveNames saved, unchanged. If there is none, the error is ErrNoCopy.
func (d *Dir) Names() ([]byte, error) {
	text, err := d.read(namesName, maxNames, errNamesTooLong)
	if err != nil && !errors.Is(err, ErrNoCopy) {
		return nil, fmt.Errorf("read addresses of names: %w", err)
	}
	return text, err
}

// NamesLost reports whether another program removed, replaced or changed the file of SaveNames.
func (d *Dir) NamesLost() bool { return d.lost(namesName) }
