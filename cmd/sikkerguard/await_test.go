package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestWaitForConfig checks that the agent does not exit, after which Docker would restart it for
// ever. It prints each reason once, prints that it waits, and reports the reason as not healthy.
// Once the file exists, the agent starts. After a stop, it exits without an error.
func TestWaitForConfig(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "api_key")
	environ := []string{
		"SIKKER_API_KEY_FILE=" + key, "SIKKER_DRY_RUN=true", "SIKKER_API_URL=http://127.0.0.1:1",
		"SIKKER_STATE_DIR=" + dir,
		"SIKKER_HEALTH_PORT=" + strconv.Itoa(freePort(t)),
	}
	var out, stderr buffer
	ctx, cancel := context.WithCancel(t.Context())
	endedC := make(chan error, 1)
	go func() {
		c := command(environ, &out)
		c.SetArgs([]string{"run", "--wait-for-config"})
		c.SetErr(&stderr)
		endedC <- c.ExecuteContext(ctx)
	}()
	health := func(args ...string) error {
		c := command(environ, io.Discard)
		c.SetArgs(append([]string{"healthcheck"}, args...))
		return c.ExecuteContext(t.Context())
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			select {
			case err := <-endedC:
				t.Fatalf("it has ended: %v\n%s", err, stderr.String())
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s\n%s%s", what, stderr.String(), out.String())
			}
		}
	}
	await("the reason at the socket", func() bool {
		err := health()
		return err != nil && strings.Contains(err.Error(), "SIKKER_API_KEY_FILE")
	})
	if err := health("--alive"); err != nil {
		t.Errorf("it is not alive: %v", err)
	}
	if err := os.WriteFile(key, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await("another reason", func() bool { return strings.Contains(stderr.String(), "does not hold a SikkerAPI key") })
	if n := strings.Count(stderr.String(), "sikkerguard: configuration: "); n != 2 {
		t.Errorf("%d reasons printed, want each reason once:\n%s", n, stderr.String())
	}
	if n := strings.Count(stderr.String(), "sikkerguard: waiting for valid settings"); n != 1 {
		t.Errorf("printed %d times that it waits, want once:\n%s", n, stderr.String())
	}
	if err := os.WriteFile(key, []byte("sk_test_wait\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await("the agent", func() bool { return strings.Contains(out.String(), "SikkerGuard running") })
	cancel()
	if err := <-endedC; err != nil {
		t.Error(err)
	}
}

// TestStopWhileWaiting checks that a stop before the configuration is valid is not an error.
func TestStopWhileWaiting(t *testing.T) {
	var stderr bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := command([]string{"SIKKER_STATE_DIR=" + t.TempDir()}, io.Discard)
	c.SetArgs([]string{"run", "--wait-for-config"})
	c.SetErr(&stderr)
	if err := c.ExecuteContext(ctx); err != nil || !strings.Contains(stderr.String(), "SIKKER_API_KEY") {
		t.Errorf("%v, and says %q", err, stderr.String())
	}
}
