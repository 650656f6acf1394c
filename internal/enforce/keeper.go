package enforce

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/panics"
)

const (
	// keepMost is how long a write to the disk may take before it is reported, and how long the end
	// of the agent waits for it.
	keepMost = 5 * time.Second
	// keepAsideMost is how long a start waits for the refused list of the run before.
	keepAsideMost = time.Second
	// keepAgainFirst and keepAgainMost bound the wait after a list could not be written.
	keepAgainFirst, keepAgainMost = 5 * time.Second, time.Minute
)

// errKeeping is a disk that hangs.
var errKeeping = errors.New("the list is still being written: the disk hangs")

// keeper writes the newest of something to the disk, which may be full or hang, until it is
// written. The writing has a goroutine of its own; one that hangs ends with the process. The other
// methods are for one goroutine. They do not wait, except end. That goroutine calls done for each
// value of doneC, hung when late is ready, and retry when due is ready.
type keeper struct {
	doneC  chan error   // capacity 1: the result of a write
	next   func() error // the newest, not written yet; nil for none
	busy   bool         // a write is under way, of next unless stale
	stale  bool         // next is newer than the write under way
	failed bool         // a write has failed or hung since the newest was written
	slow   *time.Timer  // of the write under way; nil for none, or if it is late
	wait   *clock.Retry
}

func newKeeper() *keeper {
	return &keeper{doneC: make(chan error, 1), wait: clock.NewRetry(keepAgainFirst, keepAgainMost)}
}

// keep has write done, in the place of an earlier one that is not done yet.
func (k *keeper) keep(write func() error) {
	k.next = write
	if k.busy {
		k.stale = true
		return
	}
	k.begin()
}

func (k *keeper) begin() {
	write := k.next
	k.busy, k.stale = true, false
	k.wait.Stop()
	k.slow = time.NewTimer(keepMost)
	go func() { k.doneC <- panics.Contain(write) }()
}

// done takes the result of a write. It reports whether the newest is written.
func (k *keeper) done(err error) bool {
	k.busy = false
	k.punctual()
	k.failed = k.failed || err != nil
	switch {
	case k.stale:
		k.begin()
	case err != nil:
		k.wait.Schedule()
	default:
		k.next, k.failed = nil, false
		k.wait.Reset()
	}
	return k.next == nil
}

// late is ready when the write under way takes longer than keepMost.
func (k *keeper) late() <-chan time.Time {
	if k.slow == nil {
		return nil
	}
	return k.slow.C
}

// hung takes note of a write that is late.
func (k *keeper) hung() {
	k.punctual()
	k.failed = true
}

func (k *keeper) punctual() {
	if k.slow != nil {
		k.slow.Stop()
	}
	k.slow = nil
}

// due is ready when a write that failed is to be tried again.
func (k *keeper) due() <-chan time.Time { return k.wait.DueC() }

// retry writes the newest once more.
func (k *keeper) retry() {
	k.wait.Stop()
	if !k.busy && k.next != nil {
		k.begin()
	}
}

// end waits until what is under way is written, or until mostC is ready.
func (k *keeper) end(mostC <-chan time.Time) {
	for k.busy {
		select {
		case err := <-k.doneC:
			k.done(err)
		case <-mostC:
			return
		}
	}
}
