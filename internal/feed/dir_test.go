package feed_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/feed"
)

// TestLost checks that a file of the state directory is lost if another program removes, empties or
// replaces it, until it is written again. A file that this Feed removed or never had is not lost.
func TestLost(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	dir := feed.NewDir(path, nil)
	pulled := feed.NewSaved(dir, "blacklist", feed.NewSikker(feed.SikkerOptions{URL: "https://a.example"}))
	custom := feed.NewSaved(dir, "custom", feed.NewFile("/etc/mine.txt"))
	want := func(when string, want ...string) {
		t.Helper()
		var got []string
		list, refused := pulled.Lost()
		own, _ := custom.Lost()
		for name, lost := range map[string]bool{
			"blacklist.txt": list, "blacklist.refused.txt": refused, "custom.txt": own, "names.json": dir.NamesLost(),
		} {
			if lost {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: lost %q, want %q", when, got, want)
		}
	}
	write := func() {
		t.Helper()
		now := time.Now()
		if err := errors.Join(pulled.Save(list("203.0.113.9/32"), now), custom.Save(list("203.0.113.9/32"), now),
			pulled.SaveRefused(list("203.0.113.9/32"), now, feed.Refused{}), dir.SaveNames([]byte("{}"))); err != nil {
			t.Fatal(err)
		}
	}
	want("before")
	for name, harm := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("other\n"), 0o600), os.Rename(path+".new", path))
		},
	} {
		for _, file := range []string{"blacklist.txt", "custom.txt", "blacklist.refused.txt", "names.json"} {
			write()
			want("written")
			if err := harm(filepath.Join(path, file)); err != nil {
				t.Fatal(err)
			}
			want(file+" "+name, file)
		}
	}
	write()
	if err := pulled.DropRefused(); err != nil {
		t.Fatal(err)
	}
	want("dropped")
	if err := os.WriteFile(filepath.Join(path, "custom.txt"), []byte("damaged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := custom.Load(nil); err == nil {
		t.Fatal("damaged: no error")
	}
	want("set aside as damaged")
	again := savedOf(path, feed.SikkerOptions{URL: "https://a.example"}) // another run
	if _, err := again.Load(nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(path, "blacklist.txt")); err != nil {
		t.Fatal(err)
	}
	if lost, _ := again.Lost(); !lost {
		t.Error("the list of the run before is not lost")
	}
}

// TestSaveErrorsNameTheFile checks that the error of a failed save names the file that was to be
// replaced, so that its text is the same each time that the save is repeated, and that no temporary
// file is left.
func TestSaveErrorsNameTheFile(t *testing.T) {
	t.Parallel()
	occupied := t.TempDir()
	for _, name := range []string{"blacklist.txt", "names.json"} {
		if err := os.Mkdir(filepath.Join(occupied, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		path string
		want error
	}{
		"bad a directory in the place of the file": {occupied, syscall.EEXIST},
		"bad no state directory":                   {filepath.Join(occupied, "none"), syscall.ENOENT},
	} {
		dir := feed.NewDir(tt.path, func() error { return nil })
		s := feed.NewSaved(dir, "blacklist", feed.NewFile("/etc/mine.txt"))
		for file, save := range map[string]func() error{
			"blacklist.txt": func() error { return s.Save(list("203.0.113.9/32"), time.Now()) },
			"names.json":    func() error { return dir.SaveNames([]byte("{}")) },
		} {
			first, second := save(), save()
			if !errors.Is(first, tt.want) || !strings.Contains(first.Error(), " "+filepath.Join(tt.path, file)+":") {
				t.Errorf("%s, %s: got %v, want %v", name, file, first, tt.want)
			}
			if second == nil || second.Error() != first.Error() {
				t.Errorf("%s, %s: first %v, then %v", name, file, first, second)
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(occupied, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left %q, %v", left, err)
	}
}
