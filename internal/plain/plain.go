// Package plain makes text fit to be shown: on a terminal, in a log, in a status line.
//
// Text may come from outside: a certificate's names, an API's error, a line of a list, the name of
// a file. A terminal obeys escape sequences, a bidirectional override makes text read as another
// one, and a newline begins a line that looks like one of the program's own. Everything that
// SikkerGuard prints or answers passes here. Nothing here can fail.
package plain

import (
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// More ends a line that was cut.
const More = "…"

// Line returns text as one line of at most most bytes, and More if there was more. Runs of white
// space and of what cannot be printed, such as control characters, bidirectional overrides and
// invalid UTF-8, become one space.
func Line(text string, most int) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || !printable(r) }), " ")
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + More
}

// Text returns text with a space for each character that cannot be printed. Newlines and tabs stay.
func Text(text string) string {
	return strings.Map(func(r rune) rune {
		if printable(r) || r == '\n' || r == '\t' {
			return r
		}
		return ' '
	}, text)
}

// printable reports whether a terminal shows r and does nothing else. The replacement character
// stands for invalid UTF-8.
func printable(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }

// Writer passes text on to another writer, as Text makes it. Any goroutine may use it.
type Writer struct {
	mu   sync.Mutex
	out  io.Writer
	part []byte // the beginning of a character whose end was not written yet
}

// NewWriter returns a Writer that writes to out.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

// Write implements io.Writer. An error is that of the other writer.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.part, p...)
	whole := len(all) - unfinished(all)
	w.part = append([]byte(nil), all[whole:]...)
	if whole == 0 {
		return len(p), nil
	}
	if _, err := io.WriteString(w.out, Text(string(all[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// unfinished returns how many bytes at the end of p are the beginning of a character.
func unfinished(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if end := p[len(p)-n:]; utf8.RuneStart(end[0]) {
			if utf8.FullRune(end) {
				return 0
			}
			return n
		}
	}
	return 0
}
