package untrusted_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

var errTooLong = errors.New("too long")

func TestReaderFailsBeyondItsLimit(t *testing.T) {
	t.Parallel()
	wraps := map[string]func(io.Reader) io.Reader{
		"whole":          func(r io.Reader) io.Reader { return r },
		"byte by byte":   iotest.OneByteReader,
		"data with EOF":  iotest.DataErrReader,
		"half of it":     iotest.HalfReader,
		"by eleven":      func(r io.Reader) io.Reader { return readerOf{r, 11} },
		"without a stop": func(r io.Reader) io.Reader { return io.MultiReader(r, zeroes{}) },
	}
	for name, wrap := range wraps {
		for _, text := range []string{"", "012345678", "0123456789", "0123456789a", strings.Repeat("x", 5000)} {
			r := untrusted.NewReader(wrap(strings.NewReader(text)), 10, errTooLong)
			got, err := io.ReadAll(r)
			long := len(text) > 10 || name == "without a stop"
			if long != errors.Is(err, errTooLong) || !long && err != nil {
				t.Errorf("%s, %d bytes: error %v", name, len(text), err)
			}
			if len(got) > 10 || !strings.HasPrefix(text+strings.Repeat("\x00", 10), string(got)) {
				t.Errorf("%s, %d bytes: got %q", name, len(text), got)
			}
			if n, again := r.Read(make([]byte, 1)); long && (n != 0 || !errors.Is(again, errTooLong)) {
				t.Errorf("%s, %d bytes: a second read returned %d, %v", name, len(text), n, again)
			}
		}
	}
}

// readerOf reads at most n bytes at once.
type readerOf struct {
	r io.Reader
	n int
}

func (r readerOf) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), r.n)]) }

// zeroes is a stream without an end.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestReaderPassesErrorsOn(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	text, err := io.ReadAll(untrusted.NewReader(io.MultiReader(strings.NewReader("01"), iotest.ErrReader(gone)), 10, errTooLong))
	if string(text) != "01" || !errors.Is(err, gone) {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestOpenDoesNotWait fails by its timeout if opening a pipe waits for a writer.
func TestOpenDoesNotWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("file"), []byte("text"), 0o600), unix.Mkfifo(path("pipe"), 0o600),
		os.Symlink("file", path("link")), os.Symlink("pipe", path("link to pipe"))); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		follow, noLink error
	}{
		{"file", nil, nil},
		{"link", nil, untrusted.ErrNotRegular},
		{"pipe", untrusted.ErrNotRegular, untrusted.ErrNotRegular},
		{"link to pipe", untrusted.ErrNotRegular, untrusted.ErrNotRegular},
		{".", untrusted.ErrNotRegular, untrusted.ErrNotRegular},
		{"absent", fs.ErrNotExist, fs.ErrNotExist},
	} {
		for _, c := range []struct {
			how  string
			open func(string) (*os.File, error)
			want error
		}{{"Open", untrusted.Open, tt.follow}, {"OpenNoLink", untrusted.OpenNoLink, tt.noLink}} {
			f, err := c.open(path(tt.name))
			if !errors.Is(err, c.want) {
				t.Errorf("%s of %s: %v, want %v", c.how, tt.name, err, c.want)
			}
			if err != nil {
				if p := (*fs.PathError)(nil); !errors.As(err, &p) {
					t.Errorf("%s of %s: %T has no path", c.how, tt.name, err)
				}
				continue
			}
			if text, err := io.ReadAll(f); string(text) != "text" || err != nil {
				t.Errorf("%s of %s: read %q, %v", c.how, tt.name, text, err)
			}
			_ = f.Close()
		}
	}
}
