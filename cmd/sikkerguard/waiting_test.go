package main

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPullSaysThatItWaits checks that a pull from a slow API prints a reminder, and a fast one does
// not.
func TestPullSaysThatItWaits(t *testing.T) {
	t.Parallel()
	for took, want := range map[time.Duration]string{
		remindAfter - time.Millisecond: "",
		remindAfter + time.Millisecond: "sikkerguard: waiting for the API, at most a minute\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			var stderr strings.Builder
			stop := remind(&stderr)
			time.Sleep(took)
			stop()
			time.Sleep(remindAfter)
			synctest.Wait()
			if stderr.String() != want {
				t.Errorf("after %v: %q", took, stderr.String())
			}
		})
	}
}

// TestHealthcheckNamesBothWays checks the error if neither the port nor the control socket answers.
func TestHealthcheckNamesBothWays(t *testing.T) {
	t.Parallel()
	environ := []string{"SIKKER_HEALTH_PORT=1", "SIKKER_STATE_DIR=" + filepath.Join(t.TempDir(), "state")}
	err := healthcheck(t.Context(), environ, false, &strings.Builder{})
	for _, want := range []string{
		"no agent answers on port 1: ", "no agent answers at the control socket: ", "is the agent running",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
