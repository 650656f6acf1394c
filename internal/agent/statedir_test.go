package agent

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

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
