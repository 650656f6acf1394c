package sensor

import (
	"sync"
	"time"
)

// tally sums packets. Once its tables have grown it allocates nothing for a packet.
type tally struct {
	max  int // keys per window
	made time.Time

	taking sync.Mutex  // serialises take; guards spare
	spare  map[key]sum // empty; the table of the next window

	mu     sync.Mutex // guards the fields below
	table  map[key]sum
	window Totals // since the last take
	before Totals // until the last take
	next   uint32 // expected sequence number of the next event
	unsure bool   // in this window events were missed that no gap has shown yet
	deaf   bool   // there is no listener: every window is unsure until start
}

func newTally(limit int) *tally {
	return &tally{max: limit, made: time.Now(), table: map[key]sum{}, spare: map[key]sum{}}
}

// start begins a new binding of the group. The kernel numbers the events of each binding from 0, so
// even the loss of the first one shows.
func (t *tally) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next, t.deaf = 0, false
}

// stop marks the windows as unsure until start, because no event is received.
func (t *tally) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unsure, t.deaf = true, true
}

// overrun records that the receive buffer was full. The number of the next event, which may come in
// a later window, shows how many were lost.
func (t *tally) overrun() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window.Overruns++
	t.unsure = true
}

// add counts one event. A nil payload is an event without a packet. A nil seq is an event without a
// number, from before the numbering was set up. The payload is not kept. For alone see Hit.
func (t *tally) add(seq *uint32, payload *[]byte, alone bool) {
	var (
		k  key
		ok bool
	)
	if payload != nil {
		k, ok = decode(*payload)
		k.alone = alone
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

// follow compares the sequence number of an event with the expected one. The difference is taken
// modulo 2^32, so the wrap from the last number to 0 is not a gap. A negative difference cannot be
// a loss of billions: the kernel numbers and sends under one lock, so the event is repeated or the
// counter was reset. The number of missing events is then unknown, and counting continues from seq.
func (t *tally) follow(seq uint32) {
	if gap := int32(seq - t.next); gap >= 0 {
		t.window.Lost += uint64(gap)
	} else {
		t.unsure = true
	}
	t.next = seq + 1
}

// count adds a packet to its key. It returns false if k is not in the table and the table is full.
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

// take ends the window and begins the next one. Events wait only while the tables are swapped.
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

// totals returns the totals so far, including the open window.
func (t *tally) totals() Totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.before.plus(t.window)
}

// plus returns the sum of t and u.
func (t Totals) plus(u Totals) Totals {
	return Totals{
		Events:   t.Events + u.Events,
		Lost:     t.Lost + u.Lost,
		Unparsed: t.Unparsed + u.Unparsed,
		Overflow: t.Overflow + u.Overflow,
		Overruns: t.Overruns + u.Overruns,
	}
}
