package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

// TestHangupIsKept checks that a SIGHUP while the agent is busy causes a pull later, and that a
// terminal that stops background jobs does not stop the process.
func TestHangupIsKept(t *testing.T) {
	ctx, hangupC, stop := watchSignals(t.Context())
	defer stop()
	for _, sig := range []syscall.Signal{syscall.SIGTTOU, syscall.SIGHUP, syscall.SIGHUP} {
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing is received before a later signal was handled, so it arrives after both.
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	select {
	case <-hangupC:
	case <-time.After(10 * time.Second):
		t.Fatal("the SIGHUP is lost")
	}
}

// TestLogOfSilentReader checks that a reader that does not read delays no task that logs, and later
// gets the number of missing lines.
func TestLogOfSilentReader(t *testing.T) {
	t.Parallel()
	const text = "Log lines are missing here: the reader of the log was too slow"
	for format, want := range map[config.LogFormat]string{
		config.LogConsole: `(?m)^\d\d:\d\d:\d\d WARN ` + text + ` \{"lines": \d+\}$`,
		config.LogJSON:    `(?m)^\{"level":"warn","time":"[^"]+","msg":"` + text + `","lines":\d+\}$`,
	} {
		read, pipe, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		log, outlet := logger(config.Config{LogLevel: config.LogInfo, LogFormat: format}, pipe)
		flush := outlet.Start()
		for range 3000 {
			log.Info(strings.Repeat("x", 1000))
		}
		if outlet.Dropped() == 0 {
			t.Error("nothing was dropped")
		}
		var got bytes.Buffer
		doneC := make(chan error, 1)
		go func() {
			_, err := got.ReadFrom(read)
			doneC <- err
		}()
		flush(time.Minute)
		if err := errors.Join(pipe.Close(), <-doneC, read.Close()); err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(want).Match(got.Bytes()) {
			t.Errorf("%s: the log ends with %q", format, got.String()[max(0, got.Len()-300):])
		}
	}
}

// TestNotifyIsBounded checks that a service manager that does not read its socket does not block
// the agent.
func TestNotifyIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }()
	if err := notify(path, "READY=1\n"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for range 10_000 { // far more than the queue of a socket holds
		if err = notify(path, "READY=1\n"); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 10*notifyTimeout {
		t.Errorf("with the queue full: %v after %v", err, time.Since(start))
	}
	buf := make([]byte, 100)
	if n, _, err := manager.ReadFromUnix(buf); err != nil || string(buf[:n]) != "READY=1\n" {
		t.Errorf("the manager reads %q, %v", buf[:n], err)
	}
}

// TestComplainIsBounded checks that the process exits although its stderr is not read.
func TestComplainIsBounded(t *testing.T) {
	t.Parallel()
	read, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	complain(pipe, errors.New(strings.Repeat("x", 1<<20)))
	if took := time.Since(start); took > 5*flushTimeout {
		t.Errorf("took %v", took)
	}
	if err := errors.Join(read.Close(), pipe.Close()); err != nil {
		t.Error(err)
	}
}

// TestLevelOfPanic checks that a contained panic is an error in the log, in both formats, and does
// not end the process.
func TestLevelOfPanic(t *testing.T) {
	t.Parallel()
	for format, want := range map[config.LogFormat]string{
		config.LogConsole: `^\d\d:\d\d:\d\d ERROR contained\n$`,
		config.LogJSON:    `^\{"level":"error",`,
	} {
		var got bytes.Buffer
		log, outlet := logger(config.Config{LogLevel: config.LogError, LogFormat: format}, &got)
		flush := outlet.Start()
		log.DPanic("contained")
		flush(time.Minute)
		if !regexp.MustCompile(want).Match(got.Bytes()) {
			t.Errorf("%s: the log is %q", format, got.String())
		}
	}
}
