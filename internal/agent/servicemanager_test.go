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
	zapobserver "go.uber.org/zap/zaptest/observer"
)

// TestWatchdog checks the pings of a dry run with the API down. While the loop is alive a ping
// is sent twice in the time that the service manager allows. When it hangs, here in a line of its
// log, the other parts go on and no ping is sent.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "SIKKER_API_URL=http://127.0.0.1:1", "SIKKER_DRY_RUN=true")
	synctest.Test(t, func(t *testing.T) {
		const watchdog = time.Minute
		hangC, hangupC := make(chan struct{}), make(chan os.Signal)
		log := zap.New(&hangingCore{hangC: hangC})
		sent := map[string]int{}
		a, err := New(cfg, Options{Log: log, HangupC: hangupC, ServiceManager: ServiceManager{
			Watchdog: watchdog,
			Notify: func(state string) error {
				for line := range strings.Lines(state) {
					name, _, _ := strings.Cut(line, "=")
					sent[name]++
				}
				return nil
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = a.enforcer.Run(ctx) }()
		go func() { _ = a.notifier(ctx.Done()).Run(t.Context()) }()

		time.Sleep(watchdog*10 + time.Second)
		synctest.Wait()
		if sent["READY"] != 1 || sent["WATCHDOG"] != 20 || sent["STATUS"] == 0 || sent["STOPPING"] != 0 {
			t.Errorf("in ten minutes with the API down it sent %v", sent)
		}
		hangupC <- syscall.SIGHUP // the log of it hangs
		time.Sleep(watchdog * 10)
		synctest.Wait()
		if sent["WATCHDOG"] != 20 {
			t.Errorf("%d pings were sent while the loop hangs", sent["WATCHDOG"]-20)
		}
		close(hangC)
		time.Sleep(watchdog * 10)
		synctest.Wait()
		if sent["WATCHDOG"] != 41 { // the one that is due comes at once
			t.Errorf("afterwards it sent %v", sent)
		}
		cancel()
		synctest.Wait()
		if sent["STOPPING"] != 1 {
			t.Errorf("at the end it sent %v", sent)
		}
	})
}

// hangingCore blocks the goroutine that logs the message of a SIGHUP until hangC is closed.
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

// newNotifier returns a notifier to a service manager that notify stands for, and its log.
func newNotifier(notify func(string) error) (*notifier, *zapobserver.ObservedLogs) {
	s, logs := newSupervisor()
	return &notifier{manager: ServiceManager{Notify: notify}, board: s.board, log: s.log}, logs
}

// TestFailedMessagesAreLoggedOnce checks that the first of several messages in a row that do not
// get through is logged.
func TestFailedMessagesAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var err error
	n, logs := newNotifier(func(string) error { return err })
	errFile := errors.New("no such file")
	for _, err = range []error{errFile, errFile, nil, errFile} {
		n.send("READY=1\n")
	}
	if n := logs.FilterMessage("The service manager does not receive the state of the agent").Len(); n != 2 {
		t.Errorf("logged %d times, want 2", n)
	}
}

// TestReadyIsSentUntilItGetsThrough checks that readiness is sent again if it did not get through:
// a service manager that never receives it would end the agent.
func TestReadyIsSentUntilItGetsThrough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ready []time.Time
		n, _ := newNotifier(func(state string) error {
			if strings.Contains(state, "READY=1") {
				if ready = append(ready, time.Now()); len(ready) < 3 {
					return errors.New("the queue is full")
				}
			}
			return nil
		})
		readyC := make(chan struct{})
		close(readyC)
		n.readyC = readyC
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = n.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		synctest.Wait()
		if len(ready) != 3 || ready[2].Sub(ready[0]) != 2*notifyRetry {
			t.Errorf("sent %d times, at %v", len(ready), ready)
		}
	})
}
