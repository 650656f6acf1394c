package feed_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
)

// TestLost checks that a file of the state directory is lost if another program removes, empties or
// replaces it, until it is written again. A file that this Feed removed or never had is not lost.
func TestLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := feed.New(feed.Options{
		URL: "https://a.example", Key: "sk_test_feed", ScoreMin: 50, StateDir: dir, Custom: "/etc/mine.txt",
		CustomCopy: "custom.txt",
	})
	want := func(when string, want feed.Lost) {
		t.Helper()
		if got := f.Lost(); got != want {
			t.Errorf("%s: got %+v, want %+v", when, got, want)
		}
	}
	write := func() {
		t.Helper()
		now := time.Now()
		if err := errors.Join(f.Keep(list("203.0.113.9/32"), now), f.KeepCustom(list("203.0.113.9/32"), now),
			f.KeepAside(list("203.0.113.9/32"), now, feed.Refused{}), f.KeepNames([]byte("{}"))); err != nil {
			t.Fatal(err)
		}
	}
	want("before", feed.Lost{})
	for name, harm := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("other\n"), 0o600), os.Rename(path+".new", path))
		},
	} {
		for file, lost := range map[string]feed.Lost{
			"blacklist.txt": {List: true}, "custom.txt": {Custom: true}, "blacklist.refused.txt": {Aside: true},
			"names.json": {Names: true},
		} {
			write()
			want("written", feed.Lost{})
			if err := harm(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			want(file+" "+name, lost)
		}
	}
	write()
	if err := f.DropAside(); err != nil {
		t.Fatal(err)
	}
	want("dropped", feed.Lost{})
	f = kept(t, dir) // another run
	if _, err := f.Kept(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "blacklist.txt")); err != nil {
		t.Fatal(err)
	}
	want("of the run before", feed.Lost{List: true})
}
