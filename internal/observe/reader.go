package observe

import (
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// reader makes hits of the events and of the kernel's counts by key, which it reads.
type reader struct {
	keys    Keys
	unread  func(error)
	account *account

	joiner joiner
	pace   pace
	byKey  bool      // the kernel counts by key, by the last reading
	behind bool      // packets were dropped that no reading has
	upTo   time.Time // every packet that came before it is in a reading
	full   bool      // a set of keys was full, since takeFull
}

// read returns the hits since the previous call. events are those since then, and moved is false if
// no packet was dropped; both were read after now. If must is not set, a reading of many keys may be
// left to a later call. whole is false if it was, or if it failed.
func (r *reader) read(events sensor.Window, moved, must bool, now time.Time) (w sensor.Window, whole bool) {
	r.joiner.add(events)
	r.behind = r.behind || moved || r.joiner.waits()
	if !r.behind {
		r.upTo = now
		return sensor.Window{}, true
	}
	begin := time.Now()
	if r.byKey && !must && !r.pace.due(begin) {
		return sensor.Window{}, false
	}
	h, err := r.keys.Hits()
	end := time.Now()
	if err == nil || must { // one failure alone, which other programs cause, costs a second
		r.unread(err)
	}
	if err != nil {
		return sensor.Window{}, false
	}
	r.byKey, r.behind = h.Supported, false
	if h.Supported {
		r.pace.took(begin, end)
		r.full = r.full || h.Full
		r.account.addCounts(h.Counts)
		w = r.joiner.join(h.Counts, r.upTo, end)
	} else {
		w = r.joiner.alone()
		r.account.addEvents(w)
	}
	r.upTo = begin
	return w, true
}

// takeFull reports whether a set of keys was full since the previous call.
func (r *reader) takeFull() bool {
	full := r.full
	r.full = false
	return full
}
