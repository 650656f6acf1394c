package memory

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// settled is how long after the end of the last work memory is released. Work comes in series,
	// as a pull, an apply and a write to the disk, and each release costs a garbage collection.
	settled = 2 * time.Second
	// busyPercent is the GC percentage during work: the heap grows to 125% of the live memory, not
	// to twice that.
	busyPercent = 25
	// slack is the growth in bytes since the last release that is left alone. A change of the
	// allowlist grows the process by less.
	slack = 4 << 20
)

// Reclaimer returns memory to the kernel after work that needed much of it. Its methods may be
// called by any goroutine. A nil *Reclaimer does nothing.
type Reclaimer struct {
	resident func() int64  // resident bytes of the process; 0 if unknown
	release  func()        // returns memory to the kernel
	percent  func(int) int // sets the GC percentage and returns the previous one

	mu     sync.Mutex
	busy   int         // works under way
	normal int         // GC percentage without work
	timer  *time.Timer // releases; nil before the first work
	least  int64       // resident bytes after the last release; 0 before the first
}

// New returns the Reclaimer of the process. It changes nothing yet.
func New() *Reclaimer {
	return &Reclaimer{resident: resident, release: release, percent: debug.SetGCPercent}
}

// Begin reports that work begins that needs much memory. The work ends when end is called, and
// further calls of end do nothing. Works may overlap.
func (r *Reclaimer) Begin() (end func()) {
	if r == nil {
		return func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy++; r.busy == 1 {
		if r.timer != nil {
			r.timer.Stop()
		}
		if r.normal = r.percent(busyPercent); r.normal < busyPercent { // the operator's GOGC is lower, or off
			r.percent(r.normal)
		}
	}
	return sync.OnceFunc(r.end)
}

func (r *Reclaimer) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy--; r.busy > 0 {
		return
	}
	r.percent(r.normal)
	if r.timer == nil {
		r.timer = time.AfterFunc(settled, r.settle)
	} else {
		r.timer.Reset(settled)
	}
}

// settle releases memory, unless work is under way or the process has hardly grown. Begin waits
// for it, some milliseconds.
func (r *Reclaimer) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.resident(); r.busy > 0 || now > 0 && now-r.least < slack {
		return
	}
	r.release()
	r.least = r.resident()
}
