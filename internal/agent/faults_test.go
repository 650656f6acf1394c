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

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// panicky returns an agent in force whose log is that of the product: it does not panic at a panic.
func panicky(t *testing.T) (*Agent, *zapobserver.ObservedLogs) {
	t.Helper()
	core, logs := zapobserver.New(zapcore.DebugLevel)
	a, err := New(testConfig(t), Options{Version: "1.0.0", Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
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

// TestPanicOfASurvey: the survey that panicked is made when surveys are made again.
func TestPanicOfASurvey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		surveys := 0
		s := newSurveyor(func(context.Context) host.Whitelist {
			if surveys++; surveys == 1 {
				panic("no such route")
			}
			return host.Whitelist{Number: uint64(surveys)}
		}, func(context.Context) host.Whitelist { return host.Whitelist{Number: uint64(surveys)} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.ask()
		if _, ok := errors.AsType[*panics.Error](s.Run(ctx)); !ok {
			t.Error("the panic is no error")
		}
		if err := s.Run(ctx); err != nil || surveys != 2 {
			t.Errorf("%v after %d surveys", err, surveys)
		}
	})
}

// broken is a kernel whose features cannot be told.
type broken struct{ kernel }

func (*broken) Info() ruleset.Info { panic("no such feature") }

// TestPanicOfAnAnswer: a question that cannot be answered without a panic fails by itself, and the
// next one is answered.
func TestPanicOfAnAnswer(t *testing.T) {
	t.Parallel()
	a, _ := panicky(t)
	a.fw = &broken{}
	if _, err := a.board.Gatherer().Gather(); err == nil || !strings.Contains(err.Error(), "no such feature") {
		t.Errorf("a scrape is answered with %v", err)
	}
	err := panics.Contain(func() error { a.board.StatusJSON(); return nil })
	if _, ok := errors.AsType[*panics.Error](err); !ok {
		t.Errorf("the status is answered with %v", err)
	}
	a.fw = nil
	if s := a.board.StatusJSON().(status.Status); s.State != status.StateActive {
		t.Errorf("then it is %s: %s", s.State, s.Reason)
	}
}

// panickyBody is a list that cannot be read without a panic.
type panickyBody struct{}

func (panickyBody) Read([]byte) (int, error) { panic("no such line") }

// TestPanicOfAList: a list that makes the parser panic is a pull that did not succeed, and a kept
// one is left out: neither ends this process, nor each one that follows.
func TestPanicOfAList(t *testing.T) {
	t.Parallel()
	_, err := vetted(panickyBody{}, vet.Options{})
	if _, ok := errors.AsType[*panics.Error](err); !ok {
		t.Errorf("a list that panics is %v", err)
	}
	k := newKeeper()
	k.keep(func() error { panic("no such disk") })
	if k.done(<-k.doneC) || k.due() == nil {
		t.Errorf("a write that panics is not tried again")
	}
	if _, err := readDisk(time.Minute, "reading", func() (int, error) { panic("no such file") }); err == nil {
		t.Error("a reading that panics succeeds")
	}
}
