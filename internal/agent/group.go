package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/bounded"
)

// errHangs is the error of a stop whose step did not end within its time.
var errHangs = errors.New("it hangs; anything that it has not written is lost when the process ends")

// group is a set of parts that start together and stop together.
type group struct {
	name    string        // completes "wait for the …" in an error
	most    time.Duration // the longest wait for their end
	running sync.WaitGroup
}

// start calls run with each of parts, all at the same time. run returns soon after ctx has ended.
func (g *group) start(ctx context.Context, run func(context.Context, *part), parts ...*part) {
	for _, p := range parts {
		g.running.Go(func() { run(ctx, p) })
	}
}

// wait waits for the end of all parts that were started. It returns errHangs after its time.
func (g *group) wait() error {
	return step{g.name, g.most, func() error {
		g.running.Wait()
		return nil
	}}.wait()
}

// step is one step of a stop.
type step struct {
	name string        // completes "wait for the …" in an error
	most time.Duration // the longest that it may take
	call func() error
}

// wait calls s.call and returns its error, or errHangs if it does not return in time. The goroutine
// that runs it is then abandoned; it ends with the process.
func (s step) wait() error {
	_, err := bounded.Call(s.most, func() (struct{}, error) { return struct{}{}, s.call() })
	if errors.Is(err, bounded.ErrHangs) {
		return fmt.Errorf("wait for the %s: %w", s.name, errHangs)
	}
	return err
}

// waiter is a group or a step.
type waiter interface{ wait() error }

// waitInOrder waits for one after the other, until one hangs: those that follow would hang too.
func waitInOrder(all ...waiter) error {
	var err error
	for _, w := range all {
		err = errors.Join(err, w.wait())
		if errors.Is(err, errHangs) {
			break
		}
	}
	return err
}
