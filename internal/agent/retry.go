package agent

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// retryFirst and retryMost bound the wait after a pull that did not succeed; it doubles from one to the next.
	retryFirst, retryMost = 5 * time.Second, 15 * time.Minute
	// retryRefused is the shortest wait after a list was refused: the next one will hardly differ, and pulls have a quota.
	retryRefused = 5 * time.Minute
	// retryUnauthorized is how long a refused key waits. It is mostly the operator who has to change it, but a fault of the API
	// or of something before it looks the same.
	retryUnauthorized = time.Hour
	// askedMost bounds the wait that an answer of a passing failure asks for. A CDN before the API may ask for a week, and the
	// host may be without a list.
	askedMost = time.Hour
)

// newBackoff is how long to wait from one failure to the next: twice as long each time, half of it chance. It never ends.
func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = retryFirst, retryMost, 2
	return b
}

// retryIn is how long to wait after a failure.
func (a *Agent) retryIn(err error) time.Duration {
	wait := max(a.enforcer.wait.NextBackOff(), asked(err))
	var (
		quota    *sikkerapi.QuotaError
		refusal  *vet.RefusalError
		rollback *RollbackError
	)
	switch {
	case errors.As(err, &quota):
		// Until the quota is there again, and a little later, so that a fleet does not come back in the same second.
		return quota.RetryAfter + wait
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		wait = retryUnauthorized
	case errors.As(err, &refusal), errors.As(err, &rollback):
		wait = max(wait, retryRefused, spread(a.feed.Quota(), time.Now()))
	}
	return min(wait, a.cfg.PullInterval)
}

// asked returns how long a passing failure asks to be left alone, at most askedMost.
func asked(err error) time.Duration {
	t, ok := errors.AsType[*sikkerapi.TemporaryError](err)
	if !ok {
		return 0
	}
	return min(t.RetryAfter, askedMost)
}

// spread is how far apart pulls must be for a quota to last until it is there anew: 0 when that is not known.
func spread(q sikkerapi.Quota, now time.Time) time.Duration {
	if !q.Known || q.Remaining == 0 || !q.Reset.After(now) {
		return 0
	}
	return min(q.Reset.Sub(now), 24*time.Hour) / time.Duration(q.Remaining) // further off, the clock was put back
}

// inFuture is the time after d, as the status shows times: UTC, to the second.
func inFuture(d time.Duration) *time.Time {
	t := time.Now().Add(d).UTC().Truncate(time.Second)
	return &t
}
