package feed_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

func TestFileWhole(t *testing.T) {
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
		{name: "bad last line", text: "203.0.113.9\n203.0.113.4", want: feed.ErrFileUnended},
		{name: "bad one byte", text: "2", want: feed.ErrFileUnended},
		{name: "bad UTF-16 last line", text: "\xff\xfe1\x00", want: feed.ErrFileUnended},
		{name: "bad appended", text: "203.0.113.9\n", want: feed.ErrFileChanging, meanwhile: func(path string) error {
			return os.WriteFile(path, []byte("203.0.113.9\n203.0.113.10\n"), 0o600)
		}},
		{
			name: "bad rewritten with the same length", text: "203.0.113.9\n", want: feed.ErrFileChanging,
			meanwhile: rewrite,
		},
		{name: "bad replaced", text: "203.0.113.9\n", want: feed.ErrFileChanging, meanwhile: func(path string) error {
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
			file, err := feed.NewFile(path).Open()
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

// TestSavedFile checks that the operator's list is saved separately from that of the API, and that
// its file is part of its identity.
func TestSavedFile(t *testing.T) {
	t.Parallel()
	dir := feed.NewDir(t.TempDir(), nil)
	mine := feed.NewFile("/a")
	s := feed.NewSaved(dir, "custom", mine)
	if _, err := s.Load(nil); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("before: %v", err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := s.Save(list("203.0.113.9/32", "2001:db8::/32"), at); err != nil {
		t.Fatal(err)
	}
	c, body, err := load(s)
	if err != nil || body != "203.0.113.9\n2001:db8::/32\n" || c.Entries != 2 || !c.Fetched.Equal(at) {
		t.Errorf("got %+v, %v", c, err)
	}
	if c.Identity != mine.Identity() || c.Request == feed.NewFile("/b").Identity().Request {
		t.Errorf("identity: %+v", c.Identity)
	}
	if _, err := feed.NewSaved(dir, "blacklist", mine).Load(nil); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("the API's: %v", err)
	}
}

// TestSavedFileOfAnEarlyVersion: the saved list of the operator's file has the request of the API
// in early versions, and the checksum of the path by itself.
func TestSavedFileOfAnEarlyVersion(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), feed.NewFile("/etc/mine.txt")
	sum := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	text := "# SikkerGuard list copy, version 1\n# pulled: 2026-11-24T01:02:03Z\n# from: https://a.example\n# request: " +
		sum("the API's") + "\n# source: " + sum("the API's, too") + "\n# entries: 1\n# file: " + sum("/etc/mine.txt") +
		"\n# sha256: " + sum("203.0.113.9\n") + "\n203.0.113.9\n"
	if err := os.WriteFile(filepath.Join(dir, "custom.txt"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, body, err := load(feed.NewSaved(feed.NewDir(dir, nil), "custom", file))
	if err != nil || c.Request != file.Identity().Request || body != "203.0.113.9\n" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	large := write("large", "")
	if err := os.Truncate(large, sikkerapi.BlacklistMaxBytes+1); err != nil {
		t.Fatal(err)
	}
	full := write("full", "")
	if err := os.Truncate(full, sikkerapi.BlacklistMaxBytes); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		size       int
		err        string
	}{
		{name: "OK file", path: write("list", "203.0.113.9\n"), size: 12},
		{name: "OK empty", path: write("empty", "")},
		{name: "OK as large as may be", path: full, size: sikkerapi.BlacklistMaxBytes},
		{name: "bad too large", path: large, err: feed.ErrFileTooLarge.Error()},
		{name: "bad missing", path: filepath.Join(dir, "missing"), err: "no such file"},
		{name: "bad directory", path: dir, err: "not a regular file"},
		{name: "bad device", path: "/dev/zero", err: "not a regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file, err := feed.NewFile(tt.path).Open()
			size := int64(0)
			if err == nil {
				size, err = io.Copy(io.Discard, file)
				err = errors.Join(err, file.Close())
			}
			switch {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
			case err != nil || size != int64(tt.size):
				t.Errorf("got %d bytes, %v; want %d", size, err, tt.size)
			}
		})
	}
}
