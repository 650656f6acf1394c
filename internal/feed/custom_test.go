package feed_test

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/feed"
)

func TestCustomWhole(t *testing.T) {
	t.Parallel()
	rewrite := func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("203.0.113.8\n"), 0o600),
			os.Chtimes(path, time.Time{}, time.Now().Add(time.Second)))
	}
	tests := []struct {
		name, text string
		meanwhile  func(path string) error
		want       error
	}{
		{name: "OK lines", text: "203.0.113.9\n"},
		{name: "OK empty"},
		{name: "OK UTF-16", text: "\xff\xfe1\x00\n\x00"},
		{name: "OK gzip", text: "\x1f\x8b\x08\x00x"},
		{name: "bad last line", text: "203.0.113.9\n203.0.113.4", want: feed.ErrCustomUnended},
		{name: "bad one byte", text: "2", want: feed.ErrCustomUnended},
		{name: "bad UTF-16 last line", text: "\xff\xfe1\x00", want: feed.ErrCustomUnended},
		{name: "bad appended", text: "203.0.113.9\n", want: feed.ErrCustomChanging, meanwhile: func(path string) error {
			return os.WriteFile(path, []byte("203.0.113.9\n203.0.113.10\n"), 0o600)
		}},
		{
			name: "bad rewritten with the same length", text: "203.0.113.9\n", want: feed.ErrCustomChanging,
			meanwhile: rewrite,
		},
		{name: "bad replaced", text: "203.0.113.9\n", want: feed.ErrCustomChanging, meanwhile: func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("203.0.113.9\n"), 0o600), os.Rename(path+".new", path))
		}},
		{name: "bad removed", text: "203.0.113.9\n", want: os.ErrNotExist, meanwhile: os.Remove},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "list")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := feed.New(feed.Options{Custom: path}).Custom()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(file); err != nil {
				t.Fatal(err)
			}
			if tt.meanwhile != nil {
				if err := tt.meanwhile(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := file.Whole(); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if err := file.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// TestKeepCustom checks that the operator's list is saved separately from that of the API, and only
// for its own file.
func TestKeepCustom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	feedOf := func(path string) *feed.Feed {
		return feed.New(feed.Options{Custom: path, CustomCopy: "custom.txt", StateDir: dir})
	}
	if _, err := feedOf("/a").KeptCustom(); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("before: %v", err)
	}
	list := blocklist.New([]netip.Prefix{
		netip.MustParsePrefix("203.0.113.9/32"), netip.MustParsePrefix("2001:db8::/32"),
	})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := feedOf("/a").KeepCustom(list, at); err != nil {
		t.Fatal(err)
	}
	c, err := feedOf("/a").KeptCustom()
	if err != nil || string(c.Body) != "203.0.113.9\n2001:db8::/32\n" || c.Entries != 2 || !c.Pulled.Equal(at) {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, path := range []string{"/b", ""} {
		if _, err := feedOf(path).KeptCustom(); !errors.Is(err, feed.ErrNoCopy) {
			t.Errorf("of %q: %v", path, err)
		}
	}
	if _, err := feedOf("/a").Kept(); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("the API's: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "custom.txt"), []byte("203.0.113.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := errors.AsType[*feed.DamagedError](errOf(feedOf("/a").KeptCustom())); !err {
		t.Error("a damaged copy is taken")
	}
}

func errOf[T any](_ T, err error) error { return err }
