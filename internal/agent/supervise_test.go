package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// TestWatchdog runs the enforcing task in a dry run, with the API down. While it goes on it gives a sign of life every half
// of the time that the supervisor allows; when it hangs, here in writing its log, the other tasks go on and no sign comes.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "SIKKER_API_URL=http://127.0.0.1:1", "SIKKER_DRY_RUN=true")
	synctest.Test(t, func(t *testing.T) {
		const watchdog = time.Minute
		hangC, hangupC := make(chan struct{}), make(chan os.Signal)
		log := zap.New(&hangingCore{hangC: hangC})
		told := map[string]int{}
		a, err := New(cfg, Options{Log: log, HangupC: hangupC, Supervisor: Supervisor{
			Watchdog: watchdog,
			Notify: func(state string) error {
				for line := range strings.Lines(state) {
					name, _, _ := strings.Cut(line, "=")
					told[name]++
				}
				return nil
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = a.enforce(ctx) }()
		go func() { _ = a.supervise(t.Context(), a.enforcer.ReadyC(), ctx.Done()) }()

		time.Sleep(watchdog*10 + time.Second)
		synctest.Wait()
		if told["READY"] != 1 || told["WATCHDOG"] != 20 || told["STATUS"] == 0 || told["STOPPING"] != 0 {
			t.Errorf("in ten minutes with the API down it told %v", told)
		}
		hangupC <- syscall.SIGHUP // the log of it hangs
		time.Sleep(watchdog * 10)
		synctest.Wait()
		if told["WATCHDOG"] != 20 {
			t.Errorf("%d signs of life came from a task that hangs", told["WATCHDOG"]-20)
		}
		close(hangC)
		time.Sleep(watchdog * 10)
		synctest.Wait()
		if told["WATCHDOG"] != 41 { // the one that is due comes at once
			t.Errorf("afterwards it told %v", told)
		}
		cancel()
		synctest.Wait()
		if told["STOPPING"] != 1 {
			t.Errorf("at the end it told %v", told)
		}
	})
}

// hangingCore blocks whoever logs the message of a SIGHUP until hangC is closed.
type hangingCore struct {
	zapcore.LevelEnabler
	hangC chan struct{}
}

func (h *hangingCore) Enabled(zapcore.Level) bool                 { return true }
func (h *hangingCore) With([]zapcore.Field) zapcore.Core          { return h }
func (h *hangingCore) Sync() error                                { return nil }
func (h *hangingCore) Write(zapcore.Entry, []zapcore.Field) error { return nil }

func (h *hangingCore) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if strings.HasPrefix(e.Message, "SIGHUP") {
		<-h.hangC
	}
	return c
}

// TestUnheard says once that the supervisor cannot be told, and again after it could in between.
func TestUnheard(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
	var err error
	a.o.Supervisor.Notify = func(string) error { return err }
	for _, err = range []error{errors.New("no such file"), errors.New("no such file"), nil, errors.New("no such file")} {
		a.notify("READY=1\n")
	}
	if n := logs.FilterMessage("The service manager cannot be told how the agent is").Len(); n != 2 {
		t.Errorf("said %d times, want 2", n)
	}
}

// TestReadyIsToldAgain: a service manager that cannot be told once that the agent is ready would end it; so it is told again,
// until it was.
func TestReadyIsToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := logged(t)
		var ready []time.Time
		a.o.Supervisor.Notify = func(state string) error {
			if strings.Contains(state, "READY=1") {
				if ready = append(ready, time.Now()); len(ready) < 3 {
					return errors.New("the queue is full")
				}
			}
			return nil
		}
		readyC := make(chan struct{}, 1)
		readyC <- struct{}{}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = a.supervise(ctx, readyC, nil) }()
		time.Sleep(time.Minute)
		cancel()
		synctest.Wait()
		if len(ready) != 3 || ready[2].Sub(ready[0]) != 2*notifyAgain {
			t.Errorf("told %d times, at %v", len(ready), ready)
		}
	})
}
