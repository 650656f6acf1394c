package agent

import (
	"errors"
	"time"
)

const (
	// keepMost and keepAsideMost are how long the enforcing task waits for a list to be written to
	// the disk.
	keepMost, keepAsideMost = 5 * time.Second, time.Second
	// keepAgainFirst and keepAgainMost bound the wait after a list could not be written.
	keepAgainFirst, keepAgainMost = 5 * time.Second, time.Minute
)

// errKeeping is a disk that hangs since the list before.
var errKeeping = errors.New("the list before is still being written: the disk hangs")

// keeper writes the newest of something to the disk, which may be full or hang, until it is
// written. The writing has a goroutine of its own; one that hangs ends with the process. The other
// methods are for one goroutine, which calls done for each value of doneC and retry when due is
// ready.
type keeper struct {
	doneC chan error   // capacity 1: the result of a write
	next  func() error // the newest, not written yet; nil for none
	busy  bool         // a write is under way, of next unless stale
	stale bool         // next is newer than the write under way
	wait  *later
}

func newKeeper() *keeper {
	return &keeper{doneC: make(chan error, 1), wait: newLater(keepAgainFirst, keepAgainMost)}
}

// keep has write done, in the place of an earlier one that is not done yet. It returns the result,
// or an error if that takes longer than most; then the write goes on, or follows the one that
// hangs.
func (k *keeper) keep(write func() error, most time.Duration) error {
	k.next = write
	if k.busy {
		k.stale = true
		return errKeeping
	}
	k.begin()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case err := <-k.doneC:
		k.done(err)
		return err
	case <-timer.C:
		return errHangs
	}
}

func (k *keeper) begin() {
	write := k.next
	k.busy, k.stale = true, false
	k.wait.stop()
	go func() { k.doneC <- write() }()
}

// done takes the result of a write. It reports whether the newest is written.
func (k *keeper) done(err error) bool {
	k.busy = false
	switch {
	case k.stale:
		k.begin()
	case err != nil:
		k.wait.again()
	default:
		k.next = nil
		k.wait.done()
	}
	return k.next == nil
}

// due is ready when a write that failed is to be tried again.
func (k *keeper) due() <-chan time.Time { return k.wait.due() }

// retry writes the newest once more.
func (k *keeper) retry() {
	k.wait.stop()
	if !k.busy && k.next != nil {
		k.begin()
	}
}
