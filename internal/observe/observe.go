package observe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

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
	// maxLines is the number of log lines a window may take. One further line sums the rest.
	maxLines = 50
)

// Sensor is the source of hits.
type Sensor interface {
	Take() sensor.Window   // returns the hits since the previous call
	Totals() sensor.Totals // counts events since the start
}

// Counter reads the kernel's counters of dropped packets since the start of this process.
type Counter interface {
	Read() (ruleset.Counters, error)
	ReadSoon() ruleset.Counters // does not wait for a kernel that hangs
}

// Sink takes the hits of each second.
type Sink interface {
	Add(w sensor.Window, now time.Time)
}

// Options are the dependencies of an Observer.
type Options struct {
	Sensor   Sensor
	Counter  Counter
	Sinks    []Sink
	PortName func(port uint16) (name string, ok bool) // names the service of a port
	LogRate  uint32                                   // events a second that the log rule lets through
	Fields   bool                                     // hits are also logged as fields, for programs
	Log      *zap.Logger
}

// Observer logs the blocked connections. Fill may be called by any goroutine; Run and Finish are
// for one each, in this order.
type Observer struct {
	o     Options
	tally tally

	window       sensor.Window
	unattributed uint64 // packets dropped without an event, so far
	inexact      bool   // the last window was not exact

	dropped uint64 // packets at the last collection
	growth  uint64 // of dropped, between the two last collections
	peak    uint64 // the largest growth over two collections in this window
}

// New returns an Observer.
func New(o Options) *Observer { return &Observer{o: o} }

// Run logs the blocked connections of each window until ctx ends. Then it returns nil; Finish logs
// the last window.
func (o *Observer) Run(ctx context.Context) error {
	windows, collections := time.NewTicker(windowLength), time.NewTicker(collectEvery)
	defer windows.Stop()
	defer collections.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-windows.C:
			o.Finish()
		case <-collections.C:
			o.collect()
		}
	}
}

// Fill adds the events, the packets without an event and the hits by service to s.
func (o *Observer) Fill(s *status.Status) {
	totals := o.o.Sensor.Totals() // read before the counter, which has then counted every packet of an event
	s.Events = events(totals, o.o.Counter.ReadSoon().Packets())
	s.Hits, s.Unattributed = o.tally.read()
}

// collect hands the hits since the previous call to the sinks, and adds them to the window.
func (o *Observer) collect() {
	w, now := o.o.Sensor.Take(), time.Now()
	for _, s := range o.o.Sinks {
		s.Add(w, now)
	}
	o.tally.add(w.Hits, o.o.PortName)
	o.window = o.window.With(w)
	if n, err := o.o.Counter.Read(); err == nil {
		growth := n.Packets() - o.dropped
		o.peak = max(o.peak, o.growth+growth)
		o.dropped, o.growth = n.Packets(), growth
	}
}

// Finish ends the window and logs it: one line a hit, most packets first, at most maxLines, and one
// line for the rest. A count that may be too low has a plus sign.
func (o *Observer) Finish() {
	missed := o.missed()
	o.collect()
	w := o.window
	o.window, o.peak = sensor.Window{}, 0
	exact := w.Exact() && !missed
	if !exact && !o.inexact {
		o.o.Log.Warn("More packets are dropped than can be counted by source: counts marked + may be too low",
			zap.Uint64("lost", o.o.Sensor.Totals().Lost), zap.Uint64("beyondLogRate", o.unattributed),
			zap.Uint64("beyondTable", w.Overflow))
	}
	o.inexact = !exact
	var rest uint64
	for i, h := range w.Hits {
		if i >= maxLines {
			rest += h.Packets
			continue
		}
		o.o.Log.Info(o.line(h, exact), o.fields(h, exact)...)
	}
	if n := len(w.Hits) - maxLines; n > 0 {
		o.o.Log.Info(fmt.Sprintf("BLOCKED %d more sources and ports %s", n, times(rest, exact)))
	}
}

// missed reports whether packets may have been dropped without an NFLOG event since the previous
// call: beyond the limit of the log rule, or while no listener was there. The counter is read
// before the events, so that a packet whose event is under way does not count as missing. If
// the limit may have suppressed events, packets that came meanwhile could hide as many; they are
// left out.
func (o *Observer) missed() bool {
	before, err := o.o.Counter.Read()
	if err != nil {
		return true // an unknown count is not exact
	}
	time.Sleep(eventDelay) // also when the agent is stopping: the last window counts
	t := o.o.Sensor.Totals()
	sent := t.Events + t.Lost
	if before.Packets() > sent+o.unattributed {
		o.unattributed = before.Packets() - sent
		o.tally.setUnattributed(o.unattributed)
		return true
	}
	if o.peak <= uint64(o.o.LogRate) { // the bucket of the limit is as large, and refilled as fast
		return false
	}
	after, err := o.o.Counter.Read()
	return err != nil || after.Packets() > sent+o.unattributed
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

// events returns figures that add up: every packet that was dropped without an event is
// unattributed.
func events(t sensor.Totals, dropped uint64) status.Events {
	e := status.Events{Dropped: dropped, Seen: t.Events, Lost: t.Lost, Unparsed: t.Unparsed, Overflow: t.Overflow}
	if sent := t.Events + t.Lost; dropped > sent {
		e.Unattributed = dropped - sent
	}
	return e
}
