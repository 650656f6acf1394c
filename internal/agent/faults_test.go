package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// panicky returns an agent in force whose log is that of the product: it does not panic at a panic.
func panicky(t *testing.T) (*Agent, *zapobserver.ObservedLogs) {
	t.Helper()
	core, logs := zapobserver.New(zapcore.DebugLevel)
	a, err := New(testConfig(t), Options{Version: "1.0.0", Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	a.board.Update(func(s *status.Status) { s.Enforcing = status.StateActive })
	return a, logs
}

// TestPanicOfATask: a task that panics is begun again, and what it had opened is let go of. Until it
// runs the agent is degraded, and names it. The other tasks, and so the protection, go on.
func TestPanicOfATask(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, logs := panicky(t)
		runs, closed := 0, 0
		run := func(ctx context.Context) error { //nolint:unparam // as a task's
			if runs++; runs <= 3 {
				panic("no such hit")
			}
			<-ctx.Done()
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 3)
		go func() { doneC <- a.keep(ctx, task("recording", run)) }()
		go func() {
			doneC <- a.keep(ctx, task("reports", func(ctx context.Context) error { <-ctx.Done(); return nil }))
		}()
		first := true
		go func() {
			doneC <- a.keep(ctx, &helper{
				code: status.CondControl, open: func() error { return nil }, close: func() error { closed++; return nil },
				run: func(ctx context.Context) error {
					if first {
						first = false
						panic("no such socket")
					}
					<-ctx.Done()
					return nil
				},
			})
		}()
		synctest.Wait()
		const want = "recording: a fault of SikkerGuard itself (a panic: no such hit)"
		if s := a.board.Latest(); s.State != status.StateDegraded || !strings.Contains(s.Reason, want) || !s.Holds(status.CondTask) {
			t.Errorf("it is %s: %s", s.State, s.Reason)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := a.board.Latest(); s.State != status.StateActive || runs != 4 || closed != 1 {
			t.Errorf("later it is %s: %s, after %d runs, closed %d times", s.State, s.Reason, runs, closed)
		}
		told := logs.FilterLevelExact(zapcore.DPanicLevel)
		if told.Len() != 4 || !strings.Contains(told.All()[0].ContextMap()["stack"].(string), "faults_test.go:") {
			t.Errorf("the log has %v", told.All())
		}
		cancel()
		if err := errors.Join(<-doneC, <-doneC, <-doneC); err != nil {
			t.Error(err)
		}
	})
}
