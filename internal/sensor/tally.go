package sensor

import (
	"sync"
	"time"
)

// tally sums packets. Once its tables have grown it allocates nothing for a packet.
type tally struct {
	max  int // keys a window
	made time.Time

	taking sync.Mutex  // held by whoever takes a window; owns spare
	spare  map[key]sum // empty: the next window's table

	mu     sync.Mutex // holds what follows
	table  map[key]sum
	window Totals // since the last take
	before Totals // until the last take
	next   uint32 // the sequence number that the next event should have
	unsure bool   // in this window something was missed that no gap has told yet
	deaf   bool   // nobody listens: every window is unsure until start
}

func newTally(limit int) *tally {
	return &tally{max: limit, made: time.Now(), table: map[key]sum{}, spare: map[key]sum{}}
}

// start begins with a new binding of the group. The kernel numbers the events of each binding from 0, so that even the
// loss of the first one shows.
func (t *tally) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next, t.deaf = 0, false
}

// stop says that events go by unheard from now on.
func (t *tally) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unsure, t.deaf = true, true
}

// overrun says that the receive buffer was full. How much was lost shows in the number of the next event, which may come
// in a later window.
func (t *tally) overrun() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window.Overruns++
	t.unsure = true
}

// add counts one event. A nil payload is an event without a packet; a nil seq, one from before the kernel was told to
// number them. The payload is not kept.
func (t *tally) add(seq *uint32, payload *[]byte) {
	var (
		k  key
		ok bool
	)
	if payload != nil {
		k, ok = decode(*payload)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window.Events++
	if seq != nil {
		t.follow(*seq)
	}
	switch {
	case !ok:
		t.window.Unparsed++
	case !t.count(k, time.Since(t.made)):
		t.window.Overflow++
	}
}

// follow compares an event's sequence number with the one expected. The difference is taken modulo 2^32, so that the
// wrap from the last number to 0 is no gap. A number from the half behind us cannot be a loss of billions: the kernel
// numbers and sends under one lock, and so it is a repeated event or a counter that began anew. What is missing is then
// not known, and counting goes on from there.
func (t *tally) follow(seq uint32) {
	if gap := int32(seq - t.next); gap >= 0 {
		t.window.Lost += uint64(gap)
	} else {
		t.unsure = true
	}
	t.next = seq + 1
}

// count adds a packet to its key. Keys that are in the table go on counting when there is no room for new ones.
func (t *tally) count(k key, at time.Duration) bool {
	n, known := t.table[k]
	switch {
	case known:
	case len(t.table) >= t.max:
		return false
	default:
		n.first = at
	}
	n.packets++
	n.last = at
	t.table[k] = n
	return true
}

// take ends the window and begins the next one. Events wait only while the tables change places.
func (t *tally) take() Window {
	t.taking.Lock()
	defer t.taking.Unlock()
	t.mu.Lock()
	table, c := t.table, t.window
	w := Window{Events: c.Events, Lost: c.Lost, Unparsed: c.Unparsed, Overflow: c.Overflow, unsure: t.unsure}
	t.before = t.before.plus(c)
	t.window, t.unsure = Totals{}, t.deaf
	t.table, t.spare = t.spare, nil
	t.mu.Unlock()

	w.Hits = hits(table, time.Now(), time.Since(t.made))
	clear(table)
	t.spare = table
	return w
}

// totals is everything so far, the open window included.
func (t *tally) totals() Totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.before.plus(t.window)
}

// plus is the sum of both.
func (t Totals) plus(u Totals) Totals {
	return Totals{
		Events:   t.Events + u.Events,
		Lost:     t.Lost + u.Lost,
		Unparsed: t.Unparsed + u.Unparsed,
		Overflow: t.Overflow + u.Overflow,
		Overruns: t.Overruns + u.Overruns,
	}
}
