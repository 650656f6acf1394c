package enforce

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/feed"
)

// TestEmptiedStateDir: when another program empties the state directory, or changes or replaces files
// in it, the check notices it, and all saved lists are written again.
func TestEmptiedStateDir(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mine.txt")
	if err := os.WriteFile(file, []byte("198.51.100.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, hosts("203.0", 40))
	l.restart("SIKKER_CUSTOM_BLACKLIST=" + file)
	l.a.custom.publish(l.a.custom.read().customReading)
	l.a.takeOwn()
	l.want(false, true, "Blocking 41 IPs")
	l.list = "203.0.0.1\n"
	l.want(false, false, "shrink guard")
	written := func() {
		t.Helper()
		settle(l.a)
		kept, err := l.a.feed.Kept()
		own, errOwn := l.a.feed.KeptCustom()
		aside, errAside := l.a.feed.Aside()
		if err := errors.Join(err, errOwn, errAside); err != nil || kept.Entries != 40 || own.Entries != 1 || aside.Entries != 1 {
			t.Errorf("on the disk: %d, %d and %d entries, %v", kept.Entries, own.Entries, aside.Entries, err)
		}
	}
	written()
	files := []string{"blacklist.txt", "custom.txt", "blacklist.refused.txt"}
	for name, harm := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("other\n"), 0o600), os.Rename(path+".new", path))
		},
		"none": nil,
	} {
		for _, f := range files {
			if harm == nil {
				continue
			}
			if err := harm(filepath.Join(l.dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		l.a.CheckSaved()
		if n := len(l.a.lostFilesC); (n == 1) != (harm != nil) {
			t.Errorf("%s: the check notices %d times", name, n)
		}
		var lost feed.Lost
		if harm != nil {
			lost = <-l.a.lostFilesC
		}
		l.a.saveAgain(lost)
		written()
	}
	if n := l.logs.FilterMessageSnippet("it is written again").Len(); n != 9 {
		t.Errorf("that a list was lost is told %d times", n)
	}
}

// TestNothingToSaveAgain: a list that was never in force, and one that is not written yet, is no loss.
func TestNothingToSaveAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.a.saveAgain(feed.Lost{List: true, Custom: true, Aside: true})
	l.want(false, true, "Blocking 4 IPs")
	l.a.saveAgain(feed.Lost{List: true, Custom: true, Aside: true}) // the saver still has it
	if e := l.a; e.own.saver.pending() || e.refusedSaver.pending() || l.logs.FilterMessageSnippet("it is written again").Len() != 0 {
		t.Errorf("something is written again: %v", l.logs.All())
	}
}
