package agent

import (
	"math"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// later is an attempt that is made once more after each failure, with waits that double up to a
// limit. The zero value is not usable.
type later struct {
	wait  *backoff.ExponentialBackOff
	timer *time.Timer // nil while nothing is to be tried again
	at    time.Time   // when it is due
}

func newLater(first, most time.Duration) *later {
	b := newBackoff()
	b.InitialInterval, b.MaxInterval = first, most
	b.Reset()
	return &later{wait: b}
}

// again schedules the next attempt after a failure.
func (l *later) again() { l.in(l.wait.NextBackOff()) }

// in schedules the next attempt after a time.
func (l *later) in(wait time.Duration) {
	l.stop()
	wait = max(wait, leastWait)
	l.timer, l.at = time.NewTimer(wait), time.Now().Add(wait)
}

// left returns how long it is until the attempt. Without one it is longer than any other wait.
func (l *later) left() time.Duration {
	if l.timer == nil {
		return math.MaxInt64
	}
	return time.Until(l.at)
}

// done forgets the attempt and how often it failed.
func (l *later) done() {
	l.stop()
	l.wait.Reset()
}

// stop forgets the attempt. A failure after it waits as long as if the attempt had been made.
func (l *later) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer = nil
}

// due is ready when it is time for the attempt; never, while there is none.
func (l *later) due() <-chan time.Time {
	if l.timer == nil {
		return nil
	}
	return l.timer.C
}
