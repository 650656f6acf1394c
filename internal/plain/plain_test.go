package plain

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		most       int
		want       string
	}{
		{"OK plain", "pull blacklist: 503", 100, "pull blacklist: 503"},
		{"OK other scripts", "Größe 大小 🙂", 100, "Größe 大小 🙂"},
		{"OK exactly as long as allowed", "äöü", 6, "äöü"},
		{"bad long", "äöü", 5, "äö…"},
		{"bad long, cut at a character", "aäöü", 2, "a…"},
		{"bad newlines", "a\r\nsikkerguard: all is well\n", 100, "a sikkerguard: all is well"},
		{"bad line separators", "a\u2028b\u2029c\u0085d\vf\fg", 100, "a b c d f g"},
		{"bad escape sequence", "a\x1b[2J\x1b]0;title\ab", 100, "a [2J ]0;title b"},
		{"bad eight-bit escape sequence", "a\u009b31mb", 100, "a 31mb"},
		{"bad bidirectional override", "a\u202egnp.exe\u2066b", 100, "a gnp.exe b"},
		{"bad invisible", "a\u200bb\ufeffc\u00add", 100, "a b c d"},
		{"bad UTF-8", "a\xffb\xc3", 100, "a b"},
		{"bad replaced UTF-8", "a\ufffdb", 100, "a b"},
		{"bad nothing printable", "\x1b\n\t ", 100, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := Line(tt.text, tt.most); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestJoined(t *testing.T) {
	t.Parallel()
	if got := Joined(errors.Join(errors.New("one"), errors.New("two")).Error()); got != "one; two" {
		t.Errorf("got %q", got)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	const text, want = "{\n\t\"a\": \"\x1b[2J\u202eb\xff\"\r\n}\n", "{\n\t\"a\": \" [2J b \" \n}\n"
	if got := Text(text); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWriter checks that a character stays whole when it is split over writes, and that the parts
// of an escape sequence do not form one again.
func TestWriter(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := NewWriter(&out)
	for _, b := range []byte("18:05:21 INFO größer 大\x1b[2J\n\u202e🙂\xff.") {
		if n, err := w.Write([]byte{b}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := "18:05:21 INFO größer 大 [2J\n 🙂 ."; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	gone := errors.New("gone")
	if _, err := NewWriter(iotest.TruncateWriter(failing{gone}, 9)).Write([]byte("a")); !errors.Is(err, gone) {
		t.Errorf("got %v, want %v", err, gone)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzLine(f *testing.F) {
	f.Add("a\x1b[2J\u202eb\xff", 5)
	f.Fuzz(func(t *testing.T, text string, most int) {
		if most < 0 {
			return
		}
		line := Line(text, most)
		odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
		if strings.ContainsFunc(line, odd) || len(line) > most+len(More) || len(line) > len(text)+len(More) {
			t.Errorf("%q", line)
		}
		if Text(line) != line {
			t.Errorf("as a text, %q is %q", line, Text(line))
		}
	})
}
