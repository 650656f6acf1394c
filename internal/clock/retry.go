package clock

import (
	"math"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Retry schedules an attempt that is repeated after each failure, with waits that double up to a
// limit. It is for one goroutine. The zero value is not usable.
type Retry struct {
	wait  *backoff.ExponentialBackOff
	timer *time.Timer // nil without an attempt
	at    time.Time   // when the attempt is due
}

// NewRetry returns a Retry whose first wait is about first. Its waits grow up to most.
func NewRetry(first, most time.Duration) *Retry {
	return &Retry{wait: NewBackoff(first, most)}
}

// Schedule schedules the next attempt after a failure.
func (r *Retry) Schedule() { r.In(r.wait.NextBackOff()) }

// In schedules the next attempt after a time.
func (r *Retry) In(wait time.Duration) {
	r.Stop()
	wait = max(wait, LeastWait)
	r.timer, r.at = time.NewTimer(wait), time.Now().Add(wait)
}

// Left returns the time until the attempt. Without one it is longer than any other wait.
func (r *Retry) Left() time.Duration {
	if r.timer == nil {
		return math.MaxInt64
	}
	return time.Until(r.at)
}

// Reset cancels the attempt and forgets its failures.
func (r *Retry) Reset() {
	r.Stop()
	r.wait.Reset()
}

// Stop cancels the attempt. The next wait is as long as if the attempt had failed.
func (r *Retry) Stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer = nil
}

// DueC has a value when the attempt is due; never without an attempt.
func (r *Retry) DueC() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

// NewBackoff returns waits from one failure to the next: each is twice as long as the one before,
// from first up to most, and half of it is chance. They never end.
func NewBackoff(first, most time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, most, 2
	b.Reset()
	return b
}
