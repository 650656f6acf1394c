package vet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

const (
	// maxLine is the longest line that is looked at, in bytes; the longest prefix there is takes 49. A longer line is
	// malformed whatever it holds, and is passed over without being kept.
	maxLine = 4096
	// maxShown is how much of a bad line an error repeats, in bytes.
	maxShown = 60
)

// LineError is one line that is no address and no network.
type LineError struct {
	Line int    // from 1
	Text string // at most 60 bytes of the line, as it was: quote it before showing it
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %q: %v", e.Line, e.Text, e.Err) }

// Unwrap is what is wrong with the line.
func (e *LineError) Unwrap() error { return e.Err }

var errTooLong = fmt.Errorf("is longer than %d bytes", maxLine)

// eachLine calls line for every line of r that is not blank or a comment, with the prefix that parse makes of it or what is
// wrong with it, until line returns an error. It returns that error, or one of reading, and whether there were comments.
func eachLine(
	r io.Reader, parse func(string) (netip.Prefix, error), line func(p netip.Prefix, bad *LineError) error,
) (commented bool, err error) {
	br := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		text, long, err := nextLine(br)
		if err != nil && (len(text) == 0 || !errors.Is(err, io.EOF)) {
			if errors.Is(err, io.EOF) {
				return commented, nil
			}
			return commented, fmt.Errorf("read list: %w", err)
		}
		if n == 1 {
			text = bytes.TrimPrefix(text, []byte("\ufeff")) // the byte order mark some editors write
		}
		text, comment := cutComment(text)
		text = bytes.TrimSpace(text)
		commented = commented || comment
		if len(text) == 0 {
			continue
		}
		p, perr := parse(string(text))
		if long && !comment {
			perr = errTooLong
		}
		var bad *LineError
		if perr != nil {
			bad = &LineError{Line: n, Text: string(text[:min(len(text), maxShown)]), Err: perr}
		}
		if err := line(p, bad); err != nil {
			return commented, err
		}
	}
}

// nextLine reads up to and with the next newline. Of a line longer than the buffer it returns the beginning, and skips
// the rest.
func nextLine(br *bufio.Reader) (text []byte, long bool, err error) {
	text, err = br.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return text, false, err
	}
	text = bytes.Clone(text[:maxShown])
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = br.ReadSlice('\n')
	}
	return text, true, err
}

// cutComment returns a line without its comment, which begins with #, ; or //, and reports whether it has one.
func cutComment(line []byte) (before []byte, comment bool) {
	if i := bytes.IndexAny(line, "#;"); i >= 0 {
		line, comment = line[:i], true
	}
	before, _, slashes := bytes.Cut(line, []byte("//"))
	return before, comment || slashes
}
