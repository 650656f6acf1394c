package enforce

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// retryFirst and retryMost bound the wait after a pull that failed. It doubles from one failure
	// to the next.
	retryFirst, retryMost = 5 * time.Second, 15 * time.Minute
	// retryRefused is the shortest wait after a list was refused. The next list hardly differs, and
	// pulls have a quota.
	retryRefused = 5 * time.Minute
	// retryUnauthorized is the wait after the API refused the key. The operator must change it in
	// most cases, but a fault of the API, or of a proxy before it, looks the same.
	retryUnauthorized = time.Hour
	// quickDownloads is the number of unreadable lists that are followed by another pull soon while
	// no rules are active.
	quickDownloads = 3
	// spreadUnknown is the longest time between useless downloads if the API does not send the
	// quota. The free tier has 24 a day; the first few come sooner.
	spreadUnknown = 75 * time.Minute
	// askedMost bounds the wait that the response to a temporary failure requests. A CDN before the
	// API may request a week, and the host may be without a list.
	askedMost = time.Hour
)

// retryIn returns how long the next pull of r waits after err, a failure of the pull or of the
// list.
func (e *Enforcer) retryIn(r *remote, err error) time.Duration {
	wait := max(r.wait.NextBackOff(), sikkerapi.RetryAfter(err, askedMost))
	var (
		quota    *sikkerapi.QuotaError
		refusal  *vet.RefusalError
		rollback *RollbackError
		useless  uselessError
	)
	switch {
	case errors.As(err, &quota):
		// The wait ends a little after the reset, so that a fleet does not return in the same
		// second.
		return quota.RetryAfter + wait
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		wait = retryUnauthorized
	case errors.As(err, &refusal), errors.As(err, &rollback):
		wait = max(wait, retryRefused, r.spareQuota())
	case errors.As(err, &useless):
		if least := r.spareQuota(); e.active.rules != nil || r.wasted > quickDownloads {
			wait = max(wait, least)
		}
	}
	return min(wait, e.o.PullInterval)
}

// spareQuota counts a useless download, and returns how long the next one waits so that the quota
// lasts. If the quota is unknown, the wait grows from one useless download to the next.
func (r *remote) spareQuota() time.Duration {
	r.wasted++
	if q := r.quota(); q.Known {
		return spread(q, time.Now())
	}
	return min(retryRefused<<min(r.wasted-1, 8), spreadUnknown)
}

// nextPull returns how long the next pull of r waits after a turn. A list that is at hand and not
// active needs no pull, unless it was rolled back.
func (e *Enforcer) nextPull(r *remote) time.Duration {
	rollback, rolledBack := errors.AsType[*RollbackError](e.attempts.err)
	switch {
	case r.failure != nil:
		return e.retryIn(r, r.failure)
	case rolledBack && r.fresh != nil: // otherwise it was the list of another feed
		return e.retryIn(r, rollback)
	}
	r.wait.Reset()
	return e.o.PullInterval
}

// firstPull returns how long the first pull of this run waits; 0 for not at all. If the saved list
// is active and more than half of the quota is spent, as by an agent that restarts in a loop, the
// rest of the quota is spread.
func (e *Enforcer) firstPull(r *remote) time.Duration {
	q := r.quota()
	if e.active.rules == nil || !r.list.saved || !q.Known || 2*q.Remaining >= q.Limit {
		return 0
	}
	now := e.o.Clock.Now().Wall
	least := spread(q, now)
	wait := least - now.Sub(r.list.at.Wall)
	if wait <= 0 || wait > least { // the pull is due, or one of the clocks is wrong
		return 0
	}
	return min(wait, e.o.PullInterval)
}

// spread returns the time between pulls for which a quota lasts until it resets; 0 if that is
// unknown.
func spread(q sikkerapi.Quota, now time.Time) time.Duration {
	if !q.Known || q.Remaining <= 0 || !q.Reset.After(now) {
		return 0
	}
	left := min(q.Reset.Sub(now), 24*time.Hour) // a later reset shows that the clock was set back
	return left / time.Duration(q.Remaining)
}

// pullResult returns the name of the result of a pull, for the status.
func pullResult(err error) string {
	if err == nil {
		return status.PullAccepted
	}
	if _, ok := errors.AsType[*vet.RefusalError](err); ok {
		return status.PullRefused
	}
	if _, ok := errors.AsType[*sikkerapi.QuotaError](err); ok {
		return status.PullQuota
	}
	if errors.Is(err, sikkerapi.ErrUnauthorized) {
		return status.PullUnauthorized
	}
	if _, ok := errors.AsType[*sikkerapi.TemporaryError](err); ok {
		return status.PullUnavailable
	}
	return status.PullFailed
}
