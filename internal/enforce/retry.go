package enforce

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/status"
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
	// quickDownloads is how many lists that cannot be read are followed by another pull soon, while nothing is in force.
	quickDownloads = 3
	// spreadUnknown is how far apart downloads are that lead to nothing, in the end, if the API does not tell the quota. The
	// free tier has 24 a day; the first few come sooner.
	spreadUnknown = 75 * time.Minute
	// askedMost bounds the wait that an answer of a passing failure asks for. A CDN before the API may ask for a week, and the
	// host may be without a list.
	askedMost = time.Hour
)

// retryIn returns how long the next pull waits after a failure of the pull or of the list.
func (e *Enforcer) retryIn(err error) time.Duration {
	wait := max(e.wait.NextBackOff(), sikkerapi.RetryAfter(err, askedMost))
	var (
		quota    *sikkerapi.QuotaError
		refusal  *vet.RefusalError
		rollback *RollbackError
		useless  uselessError
	)
	switch {
	case errors.As(err, &quota):
		// Until the quota is there again, and a little later, so that a fleet does not come back in the same second.
		return quota.RetryAfter + wait
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		wait = retryUnauthorized
	case errors.As(err, &refusal), errors.As(err, &rollback):
		wait = max(wait, retryRefused, e.spareQuota())
	case errors.As(err, &useless):
		if least := e.spareQuota(); e.enforced != nil || e.wasted > quickDownloads {
			wait = max(wait, least)
		}
	}
	return min(wait, e.o.PullInterval)
}

// spareQuota counts a list that was downloaded and is of no use, and returns how long the next download waits so that the
// quota lasts: if the API does not tell it, longer each time.
func (e *Enforcer) spareQuota() time.Duration {
	e.wasted++
	if q := e.feed.Quota(); q.Known {
		return spread(q, time.Now())
	}
	return min(retryRefused<<min(e.wasted-1, 8), spreadUnknown)
}

// nextPull returns how long the next pull waits after this turn. A list that is at hand and did not come in force needs no
// pull, unless it is the list's fault.
func (e *Enforcer) nextPull() time.Duration {
	rollback, rolledBack := errors.AsType[*RollbackError](e.unapplied)
	switch {
	case e.failure != nil:
		return e.retryIn(e.failure)
	case rolledBack:
		return e.retryIn(rollback)
	}
	e.wait.Reset()
	return e.o.PullInterval
}

// firstPull returns how long the first pull of this run waits; 0 for not at all. If the list of the run before is in force and
// more than half of the quota is spent, as by an agent that restarts in a loop, what is left of the quota is spread.
func (e *Enforcer) firstPull() time.Duration {
	q := e.feed.Quota()
	if e.enforced == nil || !e.kept || !q.Known || 2*q.Remaining >= q.Limit {
		return 0
	}
	now := e.clock.Now().Wall
	least := spread(q, now)
	wait := least - now.Sub(e.pulledAt.Wall)
	if wait <= 0 || wait > least { // it is time, or one of the clocks is wrong
		return 0
	}
	return min(wait, e.o.PullInterval)
}

// spread is how far apart pulls must be for a quota to last until it is there anew: 0 when that is not known.
func spread(q sikkerapi.Quota, now time.Time) time.Duration {
	if !q.Known || q.Remaining <= 0 || !q.Reset.After(now) {
		return 0
	}
	return min(q.Reset.Sub(now), 24*time.Hour) / time.Duration(q.Remaining) // further off, the clock was put back
}

// pullResult names what came of a pull.
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
