package vet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	// maxLine is the length of the longest line that is parsed, in bytes; the longest prefix has
	// 49. A longer line is malformed, and is skipped without being stored.
	maxLine = 4096
	// maxShown is the most bytes of a malformed line that an error repeats.
	maxShown = 60
)

// LineError is a line that is neither an address nor a network that may be listed.
type LineError struct {
	Line int    // number of the line, from 1
	Text string // at most 60 bytes of the line, unescaped: quote it before showing it
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %q %v", e.Line, e.Text, e.Err) }

// Unwrap returns the reason.
func (e *LineError) Unwrap() error { return e.Err }

var errTooLong = fmt.Errorf("is longer than %d bytes", maxLine)

// eachLine calls line for every line of r that is neither blank nor only a comment, with its number,
// its text and the error of a line that is too long. The text is valid until line returns. eachLine
// stops when line returns an error. It returns that error or a read error, and reports whether there
// were comments.
func eachLine(r io.Reader, line func(n int, text []byte, err error) error) (commented bool, err error) {
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
			text = bytes.TrimPrefix(text, []byte("\ufeff")) // the byte order mark that some editors write
		}
		text, comment := cutComment(text)
		text = bytes.TrimSpace(text)
		commented = commented || comment
		if len(text) == 0 {
			continue
		}
		var tooLong error
		if long && !comment {
			tooLong = errTooLong
		}
		if err := line(n, text, tooLong); err != nil {
			return commented, err
		}
	}
}

// nextLine returns the next line with its newline. Of a line longer than the buffer it returns the
// beginning, and skips the rest.
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

// cutComment returns a line without its comment, which starts with #, ; or //, and reports whether
// it has one.
func cutComment(line []byte) (before []byte, comment bool) {
	if i := bytes.IndexAny(line, "#;"); i >= 0 {
		line, comment = line[:i], true
	}
	before, _, slashes := bytes.Cut(line, []byte("//"))
	return before, comment || slashes
}
