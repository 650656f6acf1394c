package agent

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestPanicOfAPart checks that a part that panics is restarted and its resources are released.
// Until it runs the agent is degraded and names it. The other parts go on.
func TestPanicOfAPart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, logs := newSupervisor()
		runs, closed := 0, 0
		panics := func(ctx context.Context) error {
			if runs++; runs <= 3 {
				panic("no such hit")
			}
			<-ctx.Done()
			return nil
		}
		first := true
		ctx, cancel := context.WithCancel(t.Context())
		g := &group{name: "parts", most: time.Second}
		g.start(ctx, s.run,
			task("recorder", panics),
			task("reports", func(ctx context.Context) error { <-ctx.Done(); return nil }),
			&part{
				code: status.CondControl, open: func() error { return nil },
				close: func() error { closed++; return nil },
				run: func(ctx context.Context) error {
					if first {
						first = false
						panic("no such socket")
					}
					<-ctx.Done()
					return nil
				},
			})
		synctest.Wait()
		const want = "recorder: a fault of SikkerGuard itself (a panic: no such hit)"
		if s := s.board.Latest(); s.State != status.StateDegraded || !strings.Contains(s.Reason, want) ||
			!s.Holds(status.CondTask) {
			t.Errorf("it is %s: %s", s.State, s.Reason)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := s.board.Latest(); s.State != status.StateActive || runs != 4 || closed != 1 {
			t.Errorf("later it is %s: %s, after %d runs, closed %d times", s.State, s.Reason, runs, closed)
		}
		logged := logs.FilterLevelExact(zapcore.DPanicLevel)
		if logged.Len() != 4 || !strings.Contains(logged.All()[0].ContextMap()["stack"].(string), "panic_test.go:") {
			t.Errorf("the log has %v", logged.All())
		}
		cancel()
		if err := g.wait(); err != nil {
			t.Error(err)
		}
	})
}

// TestPartsThatShareACondition checks that the condition names each part that fails, and ends when
// the last of them runs.
func TestPartsThatShareACondition(t *testing.T) {
	t.Parallel()
	s, _ := newSupervisor()
	check := func(reason string) {
		t.Helper()
		if reason != "" {
			reason = status.Message(status.CondTask) + ": " + reason
		}
		if got := s.board.Latest().Reason; got != reason {
			t.Errorf("the reason is %q, want %q", got, reason)
		}
	}
	recorder, reports := task("recorder", nil), task("reports", nil)
	s.setFailure(recorder, nil)
	check("")
	s.setFailure(reports, errEnded)
	check("reports: it ended")
	s.setFailure(recorder, errEnded)
	check("recorder: it ended; reports: it ended")
	s.setFailure(reports, nil)
	check("recorder: it ended")
	s.setFailure(recorder, nil)
	check("")
}

// TestReaderPanicIsLogged checks that a panic while the status is read is logged with the part of
// the board that read it.
func TestReaderPanicIsLogged(t *testing.T) {
	t.Parallel()
	a, logs := newAgent(t, zap.New)
	a.board.Update(func(s *status.Status) { s.Enforcing = status.StateActive })
	a.enforcer = nil // Present panics
	if ok, text := a.board.Health(); ok || !strings.Contains(text, "a fault of SikkerGuard itself") {
		t.Errorf("health is %t, %q", ok, text)
	}
	all := logs.FilterLevelExact(zapcore.DPanicLevel).All()
	if len(all) != 1 || all[0].ContextMap()["part"] != "health" {
		t.Errorf("the log has %v", all)
	}
}
