// Package bounded calls functions that may hang, as on a disk that does not answer, and stops
// waiting for them in time.
package bounded

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// ErrHangs is the error of a call that did not return in time.
var ErrHangs = errors.New("it does not return")

// Call returns the results of call, or ErrHangs if call does not return within most. If call
// panics, the error is a *panics.Error. The goroutine of a call that hangs is abandoned: it ends
// with the process.
func Call[T any](most time.Duration, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	doneC := make(chan result, 1)
	go func() {
		var r result
		r.err = panics.Contain(func() (err error) {
			r.value, err = call()
			return err
		})
		doneC <- r
	}()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case r := <-doneC:
		return r.value, r.err
	case <-timer.C:
		var none T
		return none, ErrHangs
	}
}
