package observe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// windowLength is the time over which hits are summed for one set of log lines.
	windowLength = 10 * time.Second
	// collectEvery is the time between two readings of the sensor.
	collectEvery = time.Second
	// eventDelay is the time that the event of a dropped packet may take to arrive. The kernel
	// holds events back for up to 100 ms, to send many in one message.
	eventDelay = 250 * time.Millisecond
)

// Sensor is the source of events.
type Sensor interface {
	Take() sensor.Window // returns the events since the previous call
}

// Counter reads the kernel's counters of dropped packets since the start of this process.
type Counter interface {
	Read() (ruleset.Counters, error)
	ReadSoon() ruleset.Counters // does not wait for a kernel that hangs
}

// Keys reads the packets that the kernel counted by source, protocol and port since the previous
// call. An error loses nothing.
type Keys interface {
	Hits() (ruleset.Hits, error)
}

// Sink takes the hits of each second. A key can occur more than once. A Sink does not change them.
type Sink interface {
	Add(w sensor.Window, now time.Time)
}

// Options are the dependencies of an Observer.
type Options struct {
	Sensor   Sensor
	Counter  Counter
	Keys     Keys
	Sinks    []Sink
	PortName func(port uint16) (name string, ok bool) // names the service of a port
	LogRate  uint32                                   // events a second that the log rule lets through
	Fields   bool                                     // hits are also logged as fields, for programs
	Unread   func(error)                              // gets the error if Keys cannot be read, else nil
	Log      *zap.Logger

	// Ticker returns the ticker of Run. If nil, it is clock.NewTicker.
	Ticker func(ctx context.Context, every time.Duration) clock.Ticker
}

// Observer logs the blocked connections. Fill may be called by any goroutine; Run and Finish are
// for one each, in this order.
type Observer struct {
	o       Options
	account account
	reader  reader
	named   named

	window  sensor.Sums
	inexact bool // the last window was not exact
	full    bool // in the last window a set of keys was full

	dropped uint64    // packets at the last collection
	settled time.Time // every packet of dropped has sent its event by then
	growth  uint64    // of dropped, between the two last collections
	peak    uint64    // the largest growth over two collections in this window
}

// New returns an Observer.
func New(o Options) *Observer {
	ob := &Observer{o: o}
	if o.Ticker == nil {
		ob.o.Ticker = clock.NewTicker
	}
	ob.reader = reader{keys: o.Keys, unread: o.Unread, account: &ob.account}
	return ob
}

// Run logs the blocked connections of each window until ctx ends. Then it returns nil; Finish logs
// the last window.
func (o *Observer) Run(ctx context.Context) error {
	ticker := o.o.Ticker(ctx, collectEvery)
	defer ticker.Stop()
	for began := time.Now(); ticker.Wait(); {
		if now := time.Now(); now.Sub(began) > windowLength-collectEvery/2 { // the nearest tick
			began = now
			o.finish(false)
		} else {
			o.collect(false)
		}
	}
	return nil
}

// Fill adds the events, the packets that are not attributed and the hits by service to s, as of the
// last collection. The packets dropped since then are among those not attributed in s.Events.
func (o *Observer) Fill(s *status.Status) {
	s.Events, s.Hits, s.Unattributed = o.account.read()
	s.Events.Dropped = o.o.Counter.ReadSoon().Packets() // read last: it has counted every packet of the sums
	if known := s.Events.Seen + s.Events.Lost; s.Events.Dropped > known {
		s.Events.Unattributed = s.Events.Dropped - known
	}
}

// collect hands the hits since the previous call to the sinks, and adds them to the window. If must
// is set, it reads the kernel's counts by key even if that takes more than its share of the time.
// It returns false if packets that were dropped before are left for a later call.
func (o *Observer) collect(must bool) bool {
	now := time.Now()
	events := o.o.Sensor.Take()
	moved := o.moved()
	w, whole := o.reader.read(events, moved, must, now)
	if o.reader.byKey && (moved || len(w.Hits) > 0) {
		_, _ = o.o.Counter.Read() // if the rules are lost now, no packet of a key is missing in the sums of the counter
	}
	o.pass(w)
	if o.reader.asked {
		o.reader.pace.took(now, time.Now())
	}
	return whole
}

// moved reports whether packets were dropped since the previous call, and updates peak.
func (o *Observer) moved() bool {
	n, err := o.o.Counter.Read()
	if err != nil {
		return true
	}
	growth := n.Packets() - o.dropped
	o.peak = max(o.peak, o.growth+growth)
	o.dropped, o.growth = n.Packets(), growth
	if growth > 0 {
		o.settled = time.Now().Add(eventDelay)
	}
	return growth > 0
}

// pass hands the hits of w to the sinks, and adds them to the window and to the hits by service.
func (o *Observer) pass(w sensor.Window) {
	now := time.Now()
	for _, s := range o.o.Sinks {
		s.Add(w, now)
	}
	before := o.window.Overflow()
	o.window.Add(w)
	o.account.addHits(w.Hits, o.window.Overflow()-before, o.o.PortName)
}

// Finish ends the last window and logs it. No packet is dropped any more.
func (o *Observer) Finish() { o.finish(true) }

// finish ends the window and logs it: one line a hit, at most maxLines, and one line for the rest. A
// count that may be too low has a plus sign.
func (o *Observer) finish(last bool) {
	exact := o.exact()
	if last {
		o.pass(o.reader.joiner.flush())
	}
	w, full := o.window.Take(), o.reader.endWindow()
	exact = exact && w.Exact()
	if !exact && !o.inexact {
		_, _, missing := o.account.read()
		o.o.Log.Warn("Not every dropped packet was counted by source: counts marked + may be too low",
			zap.Uint64("lost", w.Lost), zap.Uint64("unattributed", missing), zap.Uint64("beyondTable", w.Overflow))
	}
	if full && !o.full {
		o.o.Log.Warn("More sources and ports are dropped than the kernel counts apart: " +
			"some packets are counted by source alone")
	}
	o.peak, o.inexact, o.full = 0, !exact, full
	o.logHits(w.Hits, exact)
}

// logHits logs the lines of a window.
func (o *Observer) logHits(hits []sensor.Hit, exact bool) {
	var rest uint64
	for _, h := range hits {
		rest += h.Packets
	}
	lines := o.named.pick(hits, time.Now())
	for _, h := range lines {
		o.o.Log.Info(o.line(h, exact), o.fields(h, exact)...)
		rest -= h.Packets
	}
	if n := len(hits) - len(lines); n > 0 {
		o.o.Log.Info(fmt.Sprintf("BLOCKED %d more sources and ports %s", n, times(rest, exact)))
	}
}

// exact collects the last hits of the window and reports whether each packet dropped in it is in its
// hits.
//
// The counter is read before the events and counts, so that a packet on its way does not count as
// missing. If packets can be missing (of a kernel that counts by key see doubtful; another drops more
// than the limit of the log rule lets through), packets that came meanwhile could hide as many; the
// counter must then not exceed the sums afterwards either.
func (o *Observer) exact() bool {
	before, err := o.o.Counter.Read()
	if err != nil || before.Packets() != o.dropped || time.Now().Before(o.settled) {
		time.Sleep(eventDelay) // also when the agent is stopping: the last window counts
	}
	whole := o.collect(true)
	if err != nil || !whole || o.account.miss(before.Packets()) {
		return false
	}
	if o.account.owes() {
		if after, err := o.o.Counter.Read(); err == nil && after.Packets() == before.Packets() {
			o.account.settle(after.Packets())
		}
	}
	doubtful := o.peak > uint64(o.o.LogRate) // the bucket of the limit is as large, and refilled as fast
	if o.reader.byKey {
		doubtful = o.reader.doubtful(o.o.LogRate)
	}
	if !doubtful {
		return true
	}
	after, err := o.o.Counter.Read()
	return err == nil && !o.account.exceeds(after.Packets())
}

// line returns the log line of a hit: BLOCKED 185.16.39.79:23 (telnet) proto=TCP x47. A reply to
// this host has the port of its source: BLOCKED answers from 185.16.39.79:443 (https) proto=TCP x3.
func (o *Observer) line(h sensor.Hit, exact bool) string {
	var b strings.Builder
	b.WriteString("BLOCKED ")
	if h.Kind == sensor.Answer {
		b.WriteString("answers from ")
	}
	if h.Port == 0 {
		b.WriteString(h.Source.String())
	} else {
		b.WriteString(netip.AddrPortFrom(h.Source, h.Port).String())
		b.WriteString(" (" + o.service(h.Port) + ")")
	}
	b.WriteString(" proto=" + h.Protocol.String() + " " + times(h.Packets, exact))
	return b.String()
}

// fields returns the parts of a hit as fields of its log line.
func (o *Observer) fields(h sensor.Hit, exact bool) []zap.Field {
	if !o.o.Fields {
		return nil
	}
	return []zap.Field{
		zap.Stringer("source", h.Source), zap.Uint16("port", h.Port), zap.String("service", o.service(h.Port)),
		zap.Stringer("protocol", h.Protocol), zap.Stringer("kind", h.Kind), zap.Uint64("packets", h.Packets),
		zap.Bool("exact", exact),
	}
}

// service returns the name of a port.
func (o *Observer) service(port uint16) string {
	if name, ok := o.o.PortName(port); ok {
		return name
	}
	return fmt.Sprintf("port-%d", port)
}

// times returns a packet count as text.
func times(packets uint64, exact bool) string {
	if exact {
		return fmt.Sprintf("x%d", packets)
	}
	return fmt.Sprintf("x%d+", packets)
}
