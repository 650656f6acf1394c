package observe

import (
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// tidyEvery is the longest time between two readings of the keys. Each has idle keys deleted, also
// after an attack that nothing follows. It is longer than a key of nft may be idle.
const tidyEvery = 11 * time.Minute

// reader makes hits of the events and of the kernel's counts by key, which it reads.
type reader struct {
	keys    Keys
	unread  func(error)
	account *account

	joiner joiner
	pace   pace
	byKey  bool      // the kernel counts by key, by the last reading
	behind bool      // packets were dropped that no reading has
	tidyBy time.Time // when the keys are read though nothing was dropped
	upTo   time.Time // every packet that came before it is in a reading
	asked  bool      // the last call of read asked for the keys

	// Since endWindow:
	full  bool   // a set of keys was full
	lossy bool   // events were lost
	peak  uint64 // the most packets without a key between three readings in a row

	alone uint64 // packets without a key between the last two readings
}

// read returns the hits since the previous call. events are those since then, and moved is false if
// no packet was dropped; both were read after now. If must is not set, a reading of many keys may be
// left to a later call. whole is false if it was, or if it failed.
func (r *reader) read(events sensor.Window, moved, must bool, now time.Time) (w sensor.Window, whole bool) {
	r.note(events)
	r.joiner.add(events)
	tidy := r.byKey && now.After(r.tidyBy)
	r.asked, r.behind = false, r.behind || moved || tidy || r.joiner.waits()
	if !r.behind {
		r.upTo = now
		return sensor.Window{}, true
	}
	begin := time.Now()
	if r.byKey && !must && !r.pace.due(begin) {
		return sensor.Window{}, false
	}
	r.asked = true
	h, err := r.keys.Hits()
	end := time.Now()
	if err == nil || must { // one failure alone, which other programs cause, costs a second
		r.unread(err)
	}
	if err != nil {
		return sensor.Window{}, false
	}
	r.byKey, r.behind, r.tidyBy = h.Supported, false, end.Add(tidyEvery)
	if h.Supported {
		r.full = r.full || h.Full
		r.account.addCounts(h.Counts, r.joiner.withoutKey())
		w = r.joiner.join(h.Counts, r.upTo, end)
	} else {
		w = r.joiner.alone()
		r.account.addEvents(w)
	}
	r.upTo = begin
	return w, true
}

// note looks for packets without a key and for losses among the events.
func (r *reader) note(events sensor.Window) {
	var alone uint64
	for _, e := range events.Hits {
		if e.Alone {
			alone += e.Packets
		}
	}
	r.peak = max(r.peak, r.alone+alone)
	r.alone = alone
	r.lossy = r.lossy || !events.Exact()
}

// doubtful reports whether packets of this window can be missing though the counter does not show it
// yet. Packets without a key are logged up to logRate a second, and as many at once.
func (r *reader) doubtful(logRate uint32) bool { return r.full || r.lossy || r.peak >= uint64(logRate) }

// endWindow reports whether a set of keys was full in the window, and begins the next.
func (r *reader) endWindow() (full bool) {
	full = r.full
	r.full, r.lossy, r.peak = false, false, 0
	return full
}
