package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/bounded"
)

// ending is how long a task may take to end, and recordEnding the one that records: an attack leaves it tens of thousands of
// hits to write. The rules are gone by then. What service managers wait for, 30 s, is longer than both together.
const ending, recordEnding = 6 * time.Second, 20 * time.Second

// errHangs is a task that did not end in its time.
var errHangs = errors.New("it hangs, and what was not written is lost if the process ends")

// waitFor calls wait and returns its error, or errHangs if wait does not return within most. The goroutine that runs wait is
// then abandoned; it ends with the process.
func (a *Agent) waitFor(what string, most time.Duration, wait func() error) error {
	_, err := bounded.Call(most, func() (struct{}, error) { return struct{}{}, wait() })
	if errors.Is(err, bounded.ErrHangs) {
		return fmt.Errorf("wait for the %s: %w", what, errHangs)
	}
	return err
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
