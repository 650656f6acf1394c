package agent

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestRetryIn says how long each kind of failure makes the agent wait: between least and most, as the backoff has jitter.
func TestRetryIn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		err         error
		least, most time.Duration
	}{
		{"OK a passing failure is tried again soon", &sikkerapi.TemporaryError{Err: errors.New("503")}, time.Second, 10 * time.Second},
		{"OK what the API asks for counts", &sikkerapi.TemporaryError{RetryAfter: 10 * time.Minute, Err: errors.New("503")}, 10 * time.Minute, 10 * time.Minute},
		{"OK a spent quota is waited for", &sikkerapi.QuotaError{RetryAfter: 7 * time.Hour}, 7 * time.Hour, 7*time.Hour + 10*time.Second},
		{"OK a refused key waits for the next pull", fmt.Errorf("pull: %w", sikkerapi.ErrUnauthorized), 24 * time.Hour, 24 * time.Hour},
		{"OK a refused list does not burn the quota", &vet.RefusalError{Guard: vet.GuardEmpty}, 5 * time.Minute, 5 * time.Minute},
		{"OK the kernel", errors.New("no buffer space"), time.Second, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := logged(t)
			a.enforcer.wait = newBackoff()
			if got := a.retryIn(tt.err); got < tt.least || got > tt.most {
				t.Errorf("got %v, want from %v to %v", got, tt.least, tt.most)
			}
		})
	}
}

// TestBackoffNeverGivesUp goes past the library's own limit, after which it would stop.
func TestBackoffNeverGivesUp(t *testing.T) {
	t.Parallel()
	b := newBackoff()
	for range 10_000 {
		if d := b.NextBackOff(); d == backoff.Stop || d > 2*retryMost {
			t.Fatalf("got %v", d)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	tests := []struct {
		state  State
		reason string
		ok     bool
		want   string
	}{
		{StateStarting, "starting", false, "starting"},
		{StateActive, "", true, ""},
		{StateDegraded, "pull: 503", true, ""},
		{StateUnprotected, "pull: 503", false, "unprotected: pull: 503"},
		{StateDryRun, "pull: 503", false, "dry-run: pull: 503"},
	}
	for _, tt := range tests {
		a, _ := logged(t)
		a.setStatus(func(s *Status) { s.State, s.Reason = tt.state, tt.reason })
		if ok, reason := a.Health(); ok != tt.ok || reason != tt.want {
			t.Errorf("%s: got %v %q, want %v %q", tt.state, ok, reason, tt.ok, tt.want)
		}
	}
}
