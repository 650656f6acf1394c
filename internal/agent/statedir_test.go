package agent

import (
	"context"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

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
	a.tellStore(a.useStateDir())
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

// TestEmptiedStateDir: when another program emptied the state directory, the watch notices it, and
// the list in force is written there again, but only one that is in force and written before.
func TestEmptiedStateDir(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.a.keepGone() // nothing is in force yet
	if l.a.enforcer.keeper.busy {
		t.Error("nothing is written to the disk")
	}
	l.want(false, true, "Blocking 4 IPs")
	l.a.takeKept(<-l.a.enforcer.keeper.doneC)
	if err := os.RemoveAll(l.dir); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		l.a.goneC = make(chan struct{}, 1)
		ctx, cancel := context.WithTimeout(t.Context(), stateDirEvery+time.Second)
		defer cancel()
		if err := l.a.watchStateDir(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case <-l.a.goneC:
		default:
			t.Error("the watch does not notice it")
		}
	})
	l.a.keepGone()
	l.a.takeKept(<-l.a.enforcer.keeper.doneC)
	if c, err := l.a.feed.Kept(); err != nil || c.Entries != 4 {
		t.Errorf("kept: %d entries, %v", c.Entries, err)
	}
}
