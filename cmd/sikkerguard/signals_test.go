package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestOneStopIsTwoSignals checks that a second SIGTERM right after the first, as timeout(1) sends
// it, does not kill the process before it has removed the rules. One that comes a second later
// does.
func TestOneStopIsTwoSignals(t *testing.T) {
	const child = "SIKKERGUARD_TEST_HEED"
	if os.Getenv(child) != "" {
		say := func(line string) { _, _ = fmt.Fprintln(os.Stdout, line) }
		ctx, hangupC, _ := watchSignals(t.Context())
		say("ready")
		<-ctx.Done()
		say("stopping")
		<-hangupC
		say("alive")
		time.Sleep(time.Minute) // a removal of rules that hangs
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	send := func(sigs ...syscall.Signal) {
		for _, sig := range sigs {
			_ = cmd.Process.Signal(sig) // it may have exited
		}
	}
	await := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("it exited before it printed %q: %v", want, cmd.Wait())
	}
	await("ready")
	start := time.Now()
	send(syscall.SIGTERM)
	await("stopping")
	send(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	await("alive") // the signals before it did not kill
	endedC := make(chan struct{})
	go func() {
		defer close(endedC)
		_ = cmd.Wait() // its state has the result
	}()
	for every := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-every.C:
			send(syscall.SIGTERM)
		case <-endedC:
			every.Stop()
			status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if took := time.Since(start); took < stopGrace || !ok || status.Signal() != syscall.SIGTERM {
				t.Errorf("it ended after %v: %v", took, cmd.ProcessState)
			}
			return
		}
	}
}
