package enforce

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestEmptiedStateDir: when another program empties the state directory, or changes or replaces
// files in it, CheckSaved finds that, and all saved lists are written again.
func TestEmptiedStateDir(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mine.txt")
	if err := os.WriteFile(file, []byte("198.51.100.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, hosts("203.0", 40))
	l.restart("SIKKER_CUSTOM_BLACKLIST=" + file)
	l.a.own.reader.publish(l.a.own.reader.read().ownReading)
	l.a.updateOwn()
	l.want(false, true, "Blocking 41 IPs")
	l.list = "203.0.0.1\n"
	l.want(false, false, "shrink guard")
	written := func() {
		t.Helper()
		settle(l.a)
		list, err := l.a.sikker().saved.Load(nil)
		own, errOwn := l.a.o.Own.Saved.Load(nil)
		aside, errAside := l.a.sikker().saved.Refused(nil)
		if err := errors.Join(err, errOwn, errAside); err != nil || list.Entries != 40 || own.Entries != 1 ||
			aside.Entries != 1 {
			t.Errorf("on the disk: %d, %d and %d entries, %v", list.Entries, own.Entries, aside.Entries, err)
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
		if n := len(l.a.loop.lostC); (n == 1) != (harm != nil) {
			t.Errorf("%s: the check notices %d times", name, n)
		}
		var lost lostFiles
		if harm != nil {
			lost = <-l.a.loop.lostC
		}
		l.a.rewriteLost(lost)
		written()
	}
	if n := l.logs.FilterMessageSnippet("it is written again").Len(); n != 9 {
		t.Errorf("a lost list is logged %d times", n)
	}
}

// TestUnwrittenFilesAreNotLost: a list that was never active, and one whose write is pending, are
// not lost.
func TestUnwrittenFilesAreNotLost(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	r := l.a.sikker()
	all := lostFiles{lists: []*remote{r}, refused: []*remote{r}, own: true}
	l.a.rewriteLost(all)
	l.want(false, true, "Blocking 4 IPs")
	settle(l.a)
	writtenC := make(chan struct{})
	r.saver.save(func() error { <-writtenC; return nil })
	l.a.rewriteLost(all) // the saver still has it
	if n := l.logs.FilterMessageSnippet("it is written again").Len(); n != 0 || l.a.own.saver.pending() ||
		r.refusedSaver.pending() {
		t.Errorf("something is written again: %v", l.logs.All())
	}
	close(writtenC)
}
