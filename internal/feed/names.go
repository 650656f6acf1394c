package feed

import (
	"errors"
	"fmt"
	"io"
)

const (
	// namesName is the file in the state directory with the addresses of the names of the API.
	namesName = "names.json"
	// maxNames is its largest size in bytes. It has a few hundred.
	maxNames = 64 << 10
)

var errNamesTooLong = fmt.Errorf("the file has more than %d bytes", maxNames)

// SaveNames saves a text about the names of the API in the state directory, atomically.
func (d *Dir) SaveNames(text []byte) error {
	err := d.save(namesName, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
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
