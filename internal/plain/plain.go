// Package plain makes text safe to show on a terminal, in a log and in a status line.
//
// Text may come from outside: names in a certificate, an error of an API, a line of a list, the
// name of a file. A terminal executes escape sequences, a bidirectional override makes text look
// like other text, and a newline starts a line that looks like one of the program's own.
// SikkerGuard passes everything that it prints or answers through this package, whose functions
// cannot fail.
package plain

import (
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// More marks the end of a truncated line.
const More = "…"

// Line returns text as one line of at most most bytes, followed by More if it was longer. Runs of
// white space and of characters that cannot be printed become one space. Control characters,
// bidirectional overrides and invalid UTF-8 cannot be printed.
func Line(text string, most int) string {
	space := func(r rune) bool { return r == ' ' || !printable(r) }
	text = strings.Join(strings.FieldsFunc(text, space), " ")
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + More
}

// Joined returns the lines of text with "; " between them. Joined errors (errors.Join) have one
// line each.
func Joined(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// Text returns text with a space in place of each character that cannot be printed. Newlines and
// tabs stay.
func Text(text string) string {
	return strings.Map(func(r rune) rune {
		if printable(r) || r == '\n' || r == '\t' {
			return r
		}
		return ' '
	}, text)
}

// printable reports whether a terminal only displays r. The replacement character is not printable,
// because it stands for invalid UTF-8.
func printable(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }

// Writer converts text as Text does and writes it to another writer. It is safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	out  io.Writer
	part []byte // first bytes of a character whose end was not written yet
}

// NewWriter returns a Writer that writes to out.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

// Write implements io.Writer. It returns errors of the other writer.
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

// unfinished returns the number of bytes at the end of p that are the start of an incomplete
// character.
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
