package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestBadStateDirIsToldOnce: everything that uses the state directory fails with it, and one warning
// says why.
func TestBadStateDirIsToldOnce(t *testing.T) {
	t.Parallel()
	a, logs := logged(t, "SIKKER_STATE_DIR=/dev/null")
	a.tryOpen(a.helpers.control)
	a.restorePulled()
	a.restoreOwn()
	a.restoreRefused()
	a.tellUnkept(false, a.useStateDir())
	a.tellOwnUnkept(a.useStateDir())
	a.fw = &kernel{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.recorder.Run(ctx); err != nil {
		t.Fatal(err)
	}
	told := logs.FilterLevelExact(zapcore.WarnLevel).All()
	if len(told) != 1 || told[0].Message != status.Message(status.CondStateDir) {
		t.Fatalf("warnings: %v", told)
	}
	if detail, _ := told[0].ContextMap()["detail"].(string); !strings.Contains(detail, "SIKKER_STATE_DIR must be a directory") {
		t.Errorf("it says %q", detail)
	}
	for _, code := range []status.Code{status.CondStateDir, status.CondControl, status.CondUnkept, status.CondDatabase} {
		if !a.board.Latest().Holds(code) {
			t.Errorf("%s does not hold", code)
		}
	}
}

// TestEmptiedStateDir: when another program empties the state directory, or changes or replaces files
// in it, the watch notices it, and all saved lists are written again.
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
		settle(&l.a.enforcer)
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
		var lost feed.Lost
		synctest.Test(t, func(t *testing.T) {
			l.a.lostFilesC = make(chan feed.Lost, 1)
			ctx, cancel := context.WithTimeout(t.Context(), stateDirEvery+time.Second)
			defer cancel()
			if err := l.a.watchStateDir(ctx); err != nil {
				t.Fatal(err)
			}
			if n := len(l.a.lostFilesC); (n == 1) != (harm != nil) {
				t.Errorf("%s: the watch notices %d times", name, n)
			}
			if harm != nil {
				lost = <-l.a.lostFilesC
			}
		})
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
	l.a.saveAgain(feed.Lost{List: true, Custom: true, Aside: true}) // the keeper still has it
	if e := &l.a.enforcer; e.own.keeper.busy || e.asideKeeper.busy || l.logs.FilterMessageSnippet("it is written again").Len() != 0 {
		t.Errorf("something is written again: %v", l.logs.All())
	}
}
