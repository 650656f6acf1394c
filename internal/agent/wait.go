package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// ending is how long a task may take to end, and recordEnding the one that records: an attack leaves it tens of thousands of
// hits to write. The rules are gone by then. What service managers wait for, 30 s, is longer than both together.
const ending, recordEnding = 6 * time.Second, 20 * time.Second

// errHangs is a task that did not end in its time.
var errHangs = errors.New("it hangs, and what was not written is lost if the process ends")

// waitFor waits for what a task is to have done, but not for one that hangs on a disk: what that had to do is told as not
// done.
func (a *Agent) waitFor(what string, most time.Duration, wait func() error) error {
	doneC := make(chan error, 1)
	go func() { doneC <- panics.Contain(wait) }() // what hangs ends with the process
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case err := <-doneC:
		return err
	case <-timer.C:
		return fmt.Errorf("wait for the %s: %w", what, errHangs)
	}
}

// within returns what get returns, or an error if that takes longer than most. A get that hangs, as on a disk, ends with
// the process.
func within[T any](most time.Duration, what string, get func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	doneC := make(chan result, 1)
	go func() {
		var r result
		r.err = panics.Contain(func() (err error) {
			r.value, err = get()
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
		return none, fmt.Errorf("the %s takes longer than %v: look at the disk of SIKKER_STATE_DIR", what, most)
	}
}

// pending is what is to be waited for, and for how long at most.
type pending struct {
	what string
	most time.Duration
	wait func() error
}

// waitForAll waits for one after the other, until one hangs: the others would likewise.
func (a *Agent) waitForAll(all []pending) error {
	var err error
	for _, p := range all {
		err = errors.Join(err, a.waitFor(p.what, p.most, p.wait))
		if errors.Is(err, errHangs) {
			break
		}
	}
	return err
}
