package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestRetryIn says how long each kind of failure makes the agent wait: between least and most, as
// the backoff has jitter.
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
		{"OK a refused key is tried again hourly", fmt.Errorf("pull: %w", sikkerapi.ErrUnauthorized), time.Hour, time.Hour},
		{"OK a refused list does not burn the quota", &vet.RefusalError{Guard: vet.GuardEmpty}, 5 * time.Minute, 5 * time.Minute},
		{"OK the kernel", errors.New("no buffer space"), time.Second, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := logged(t)
			a.sikker().wait = clock.NewBackoff(retryFirst, retryMost)
			if got := a.retryIn(a.sikker(), tt.err); got < tt.least || got > tt.most {
				t.Errorf("got %v, want from %v to %v", got, tt.least, tt.most)
			}
		})
	}
}

// TestSpread: what is left of a quota lasts until it is there anew.
func TestSpread(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 1, 14, 0, 0, 0, time.UTC)
	midnight := now.Add(10 * time.Hour)
	for _, tt := range []struct {
		quota sikkerapi.Quota
		want  time.Duration
	}{
		{sikkerapi.Quota{}, 0},
		{sikkerapi.Quota{Known: true, Limit: 24, Remaining: 20, Reset: midnight}, 30 * time.Minute},
		{sikkerapi.Quota{Known: true, Limit: 24, Remaining: 1, Reset: midnight}, 10 * time.Hour},
		{sikkerapi.Quota{Known: true, Limit: 24, Remaining: 0, Reset: midnight}, 0}, // the next pull is told when to come
		{sikkerapi.Quota{Known: true, Limit: 24, Remaining: 20, Reset: now}, 0},
	} {
		if got := spread(tt.quota, now); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.quota, got, tt.want)
		}
	}
}

// TestBackoffNeverGivesUp goes past the library's own limit, after which it would stop.
func TestBackoffNeverGivesUp(t *testing.T) {
	t.Parallel()
	b := clock.NewBackoff(retryFirst, retryMost)
	for range 10_000 {
		if d := b.NextBackOff(); d == backoff.Stop || d > 2*retryMost {
			t.Fatalf("got %v", d)
		}
	}
}

// stubborn is a kernel that refuses rules as often as it is told to.
type stubborn struct {
	firewall.Backend

	refuse int
}

func (s *stubborn) Apply(_ context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	if s.refuse > 0 {
		s.refuse--
		return ruleset.Evidence{}, errors.New("no buffer space available")
	}
	return ruleset.Evidence{Entries4: rs.Block.Len4(), Entries6: rs.Block.Len6()}, nil
}

func (*stubborn) Info() ruleset.Info { return ruleset.Info{} }

// TestReconcile: a allowlist that cannot be brought up to date shows until it can, beside what the
// last pull came to.
func TestReconcile(t *testing.T) {
	t.Parallel()
	list := func(s string) blocklist.Blocklist { return blocklist.New([]netip.Prefix{netip.MustParsePrefix(s)}) }
	old, moved := list("192.0.2.1/32"), list("192.0.2.2/32")
	for _, tt := range []struct {
		name    string
		pull    error
		again   blocklist.Blocklist // the host's addresses when it is tried again
		between string              // the reason after the failure
		state   status.State
		reason  string // and in the end
	}{
		{"OK the retry works", nil, moved, "The active rules lack the newest allowlist or custom blacklist: no buffer space available", status.StateActive, ""},
		{"OK the change was taken back", nil, old, "The active rules lack the newest allowlist or custom blacklist: no buffer space available", status.StateActive, ""},
		{"bad the pull failed and still does", errors.New("503"), moved, "The last refresh of the list failed: 503; The active rules lack the newest allowlist or custom blacklist: no buffer space available", status.StateDegraded, "The last refresh of the list failed: 503"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := logged(t)
			a.o.Host = host.New(host.Options{Root: t.TempDir()})
			a.backend.fw = &stubborn{}
			a.sikker().list.entries = list("198.51.100.1/32")
			a.surveys.publish(survey{allow: old})
			if err := a.apply(t.Context(), a.wanted()); err != nil {
				t.Fatal(err)
			}
			a.sikker().failure = tt.pull
			a.backend.fw = &stubborn{refuse: 1}
			a.surveys.publish(survey{allow: moved})
			a.applySurvey(t.Context())
			if s := a.o.Board.Latest(); s.State != status.StateDegraded || s.Reason != tt.between || s.Errors.Apply == nil {
				t.Errorf("after the failure: %s %q", s.State, s.Reason)
			}
			a.surveys.publish(survey{allow: tt.again})
			a.applySurvey(t.Context())
			if s := a.o.Board.Latest(); s.State != tt.state || s.Reason != tt.reason {
				t.Errorf("in the end: %s %q", s.State, s.Reason)
			}
			if !a.active.rules.allow.Equal(tt.again) {
				t.Error("the active allowlist is not the host's")
			}
		})
	}
}

func TestPullResult(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		status.PullAccepted:     nil,
		status.PullRefused:      fmt.Errorf("vet blacklist: %w", &vet.RefusalError{Guard: vet.GuardEmpty}),
		status.PullQuota:        fmt.Errorf("pull: %w", &sikkerapi.QuotaError{}),
		status.PullUnauthorized: fmt.Errorf("pull: %w", sikkerapi.ErrUnauthorized),
		status.PullUnavailable:  fmt.Errorf("pull: %w", &sikkerapi.TemporaryError{Err: os.ErrDeadlineExceeded}),
		status.PullFailed:       os.ErrClosed,
	} {
		if got := pullResult(err); got != want {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
}
