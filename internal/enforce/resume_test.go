package enforce

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// fragile is a toyKernel that several goroutines may use. After arm its backend panics once, when
// the kernel has accepted the rules.
type fragile struct {
	toyKernel

	mu    sync.Mutex
	armed bool
}

func (f *fragile) arm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = true
}

func (f *fragile) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ev, err := f.toyKernel.Apply(ctx, rs)
	if f.armed {
		f.armed = false
		panic("no such set")
	}
	return ev, err
}

func (f *fragile) drops(addr string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listOf(addr)
}

// TestPanicDuringAnApply: a panic of Run ends neither the process nor the rules. The previous rules
// are applied again, the asker of the pull receives the failure, and the next pull works.
func TestPanicDuringAnApply(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	k := &fragile{}
	core, logs := zapobserver.New(zapcore.DebugLevel)
	l.logs = logs
	l.a.o.Log = zap.New(core) // that of the product, which does not panic at a panic
	hangupC := make(chan os.Signal)
	l.a.backend.fw, l.a.o.HangupC = k, hangupC
	changedC := l.a.o.Board.Subscribe()
	await := func(state string, ok func() bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		for !ok() {
			select {
			case <-changedC:
			case <-time.After(20 * time.Millisecond): // the log and the kernel send no notification
			case <-deadline:
				t.Fatalf("timeout before %s: %v", state, l.logs.All())
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan int, 1)
	go func() { doneC <- runAgain(ctx, l.a) }()
	await("the first list is active", func() bool { return l.logs.FilterMessage("SikkerGuard running").Len() == 1 })

	l.list = hosts("198.51", 4)
	k.arm()
	if o := l.a.Pull(ctx, false); o.OK || !strings.Contains(o.Text, "fault of SikkerGuard") {
		t.Errorf("the asker receives %+v", o)
	}
	await("the first list is active again", func() bool { return k.drops("203.0.0.3") && !k.drops("198.51.0.3") })
	hangupC <- syscall.SIGHUP
	await("the next list is active", func() bool { return k.drops("198.51.0.3") && !k.drops("203.0.0.3") })
	cancel()
	if n := <-doneC; n != 1 {
		t.Errorf("it panicked %d times", n)
	}
}

// TestPanicOfTheSavedList: a panic while the saved list is restored does not prevent the first
// pull.
func TestPanicOfTheSavedList(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	l.restart()
	k := &fragile{}
	k.arm()
	l.a.active.rules = nil
	core, logs := zapobserver.New(zapcore.DebugLevel)
	l.a.o.Log, l.a.backend.fw = zap.New(core), k
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan int, 1)
	go func() { doneC <- runAgain(ctx, l.a) }()
	o := Outcome{}
	for deadline := time.Now().Add(time.Minute); !o.OK && time.Now().Before(deadline); {
		o = l.a.Pull(ctx, false)
	}
	if !o.OK || !k.drops("203.0.0.3") {
		t.Errorf("got %+v: %v", o, logs.All())
	}
	cancel()
	if n := <-doneC; n != 1 {
		t.Errorf("it panicked %d times", n)
	}
}

// TestPanicOfTheRefusedList: a panic after the saved lists were restored does not prevent the first
// pull either.
func TestPanicOfTheRefusedList(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	if err := os.WriteFile(filepath.Join(l.dir, "blacklist.refused.txt"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	core, logs := zapobserver.New(zapcore.DebugLevel)
	l.a.o.Log = zap.New(core, zap.Hooks(func(e zapcore.Entry) error {
		if strings.Contains(e.Message, "refused cannot be read") {
			panic("no such list")
		}
		return nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	doneC := make(chan int, 1)
	go func() { doneC <- runAgain(ctx, l.a) }()
	for ctx.Err() == nil && logs.FilterMessage("SikkerGuard running").Len() == 0 {
		clock.Sleep(ctx, 10*time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Error("no pull was made")
	}
	cancel()
	if n := <-doneC; n != 1 {
		t.Errorf("it panicked %d times", n)
	}
}

// TestListAfterAPanic: after a panic over a new list the status, the guards and the evidence for
// reports are about the list that is active, and the next survey does not apply the new one.
func TestListAfterAPanic(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	k := &fragile{}
	l.a.backend.fw = k
	listed := ""
	l.a.o.Listed = func(_ string, list blocklist.Blocklist) { listed = feed.Checksum(list) }
	l.want(false, true, "Blocking 4 IPs")
	want, at := listed, l.a.o.Board.Latest().PulledAt
	l.list = hosts("198.51", 4)
	k.arm()
	if err := panics.Contain(func() error { l.pull(false); return nil }); err == nil {
		t.Fatal("no panic")
	}
	if s := l.a.o.Board.Latest(); listed != want || s.PulledAt != at {
		t.Errorf("listed %s of %v, want %s of %v", listed, s.PulledAt, want, at)
	}
	if got := l.a.wanted(); !got.equal(l.a.active.rules) {
		t.Errorf("wanted %v", got)
	}
}
