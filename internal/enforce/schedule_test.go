package enforce

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestRetryIn checks the wait after each kind of failure. It lies between least and most, because
// the backoff has jitter.
func TestRetryIn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		err         error
		least, most time.Duration
	}{
		{
			"OK a passing failure is tried again soon", &sikkerapi.TemporaryError{Err: errors.New("503")}, time.Second,
			10 * time.Second,
		},
		{
			"OK the wait that the API requests is used",
			&sikkerapi.TemporaryError{RetryAfter: 10 * time.Minute, Err: errors.New("503")}, 10 * time.Minute,
			10 * time.Minute,
		},
		{
			"OK a spent quota is waited for", &sikkerapi.QuotaError{RetryAfter: 7 * time.Hour}, 7 * time.Hour,
			7*time.Hour + 10*time.Second,
		},
		{
			"OK a refused key is tried again hourly", fmt.Errorf("pull: %w", sikkerapi.ErrUnauthorized), time.Hour,
			time.Hour,
		},
		{
			"OK a refused list does not burn the quota", &vet.RefusalError{Guard: vet.GuardEmpty}, 5 * time.Minute,
			5 * time.Minute,
		},
		{"OK the kernel", errors.New("no buffer space"), time.Second, 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := newEnforcer(t)
			a.sikker().wait = clock.NewBackoff(retryFirst, retryMost)
			if got := a.retryIn(a.sikker(), tt.err); got < tt.least || got > tt.most {
				t.Errorf("got %v, want from %v to %v", got, tt.least, tt.most)
			}
		})
	}
}

// TestSpread: the rest of a quota lasts until the quota resets.
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
		{sikkerapi.Quota{Known: true, Limit: 24, Remaining: 0, Reset: midnight}, 0},
		// the API sends the time of the next pull
		{sikkerapi.Quota{Known: true, Limit: 24, Remaining: 20, Reset: now}, 0},
	} {
		if got := spread(tt.quota, now); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.quota, got, tt.want)
		}
	}
}

// TestBackoffNeverGivesUp passes the library's own limit, after which its backoff would stop.
func TestBackoffNeverGivesUp(t *testing.T) {
	t.Parallel()
	b := clock.NewBackoff(retryFirst, retryMost)
	for range 10_000 {
		if d := b.NextBackOff(); d == backoff.Stop || d > 2*retryMost {
			t.Fatalf("got %v", d)
		}
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

// TestDownloadsAreSpreadOverTheQuota: whatever is wrong with the lists of a day, the quota of the
// free tier lasts for the day.
func TestDownloadsAreSpreadOverTheQuota(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*lab){
		"cut short":         func(l *lab) { l.cut = 10 },
		"refused":           func(l *lab) { l.list = "62.0.0.0/7\n" },
		"no list":           func(l *lab) { l.list = "no list\n" },
		"kernel refuses":    func(l *lab) { l.kernel.err = errors.New("no buffer space available") },
		"grows and shrinks": func(l *lab) { l.list = hosts("203.0", 1+5000*(l.pulls%2)) },
	} {
		for _, quota := range []int{0, 24} {
			for _, first := range []bool{true, false} {
				l := newLab(t, hosts("203.0", 4))
				if !first {
					l.want(false, true, "Blocking 4 IPs")
				}
				l.quota, l.pulls = quota, 0
				for total := time.Duration(0); total < 24*time.Hour; total += l.wait {
					spoil(l)
					l.pull(false)
					if !first && l.wait < retryRefused && l.pulls > 1 {
						t.Errorf("%s, quota %d: pull %d is followed by another in %v", name, quota, l.pulls, l.wait)
					}
				}
				if l.pulls > 24 {
					t.Errorf("%s, quota %d, first %v: %d downloads in a day", name, quota, first, l.pulls)
				}
			}
		}
	}
}

// TestCutListIsPulledSoonWhileNoRulesAreActive: the quota may be spent while the host has no
// protection.
func TestCutListIsPulledSoonWhileNoRulesAreActive(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.quota, l.cut = 24, 10
	if l.want(false, false, "Not blocking anything"); l.wait > 10*time.Second {
		t.Errorf("the next pull comes after %v", l.wait)
	}
	l.cut = 0
	l.want(false, true, "Blocking 4 IPs")
	l.cut = 10
	if l.want(false, false, "Still blocking 4 IPs"); l.wait < 30*time.Minute {
		t.Errorf("while a list is active, the next pull comes after %v", l.wait)
	}
}

// TestPageInsteadOfAListIsPulledSoon: a portal's page with status 200 is not a list that a guard
// refuses.
func TestPageInsteadOfAListIsPulledSoon(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"<html>\n", `{"error": "maintenance"}`} {
		l := newLab(t, page)
		for range 3 {
			if l.want(false, false, "the answer is not a list"); l.wait > time.Minute {
				t.Errorf("the next pull comes after %v", l.wait)
			}
		}
		l.wantConditions(status.CondRefresh)
		l.list = hosts("203.0", 4)
		l.want(false, true, "Blocking 4 IPs")
		l.list = page
		if l.want(false, false, "Still blocking 4 IPs"); l.wait > time.Minute {
			t.Errorf("while a list is active, the next pull comes after %v", l.wait)
		}
		l.wantConditions(status.CondRefresh)
	}
}

// TestRestartLoopSparesTheQuota: an agent that restarts in a loop enforces the saved list, and
// leaves half of the quota.
func TestRestartLoopSparesTheQuota(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.quota = 24
	for range 20 {
		if l.a.firstPull(l.a.sikker()) == 0 {
			l.want(false, true, "Blocking 4 IPs")
		}
		l.restart()
		if !l.kernel.listOf("203.0.0.3") {
			t.Fatal("the saved list is not active")
		}
	}
	if l.pulls > 13 {
		t.Errorf("%d pulls in 20 restarts", l.pulls)
	}
	if wait := l.a.firstPull(l.a.sikker()); wait <= 0 || wait > 3*time.Hour {
		t.Errorf("the first pull waits %v", wait)
	}
	pulled := &l.a.sikker().list.at.Wall
	*pulled = pulled.Add(24 * time.Hour) // the clock was ahead then, so the age of the list is unknown
	if wait := l.a.firstPull(l.a.sikker()); wait != 0 {
		t.Errorf("after a pull in the future the first pull waits %v", wait)
	}
	if q := l.a.o.Board.Status().Quota.Pulls; q == nil || q.Remaining != 24-l.pulls {
		t.Errorf("the quota is not known after a restart: %+v", q)
	}
}
