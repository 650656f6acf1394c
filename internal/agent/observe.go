package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// window is how long hits are summed before they are told.
	window = 10 * time.Second
	// collectEvery is how often what was seen is taken from the sensor and handed to the recorder.
	collectEvery = time.Second
	// settle is how long a dropped packet may take to be seen: the kernel holds events back for up to 100 ms, to send many
	// in one message.
	settle = 250 * time.Millisecond
	// maxLines is how many lines a window may take in the log, before one line for the rest.
	maxLines = 50
)

// observer is what the observing task remembers from one window to the next.
type observer struct {
	missing uint64 // packets dropped and never seen, so far
	inexact bool   // the last window was not exact
	window  sensor.Window

	dropped uint64 // packets, when they were last collected
	growth  uint64 // by how much it had grown then
	peak    uint64 // the most that it grew by in two collections, in this window
}

// observe tells what was blocked, a window at a time, until ctx ends. The last window is told when the rules are gone.
func (a *Agent) observe(ctx context.Context) error {
	tell, collect := time.NewTicker(window), time.NewTicker(collectEvery)
	defer tell.Stop()
	defer collect.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tell.C:
			a.tellWindow()
		case <-collect.C:
			a.collect()
		}
	}
}

// collect hands what was seen since the last time to the recorder, and adds it to the window.
func (a *Agent) collect() {
	w, now := a.sensor.Take(), time.Now()
	a.evidence.see(w.Hits, now)
	a.recorder.add(w, now)
	a.tellStuck()
	a.seen.add(w.Hits, a.cfg.Ports)
	a.answerers.add(w.Hits, time.Now())
	if slices.ContainsFunc(w.Hits, a.needed) {
		a.surveys.doubt()
		offer(a.answeredC, struct{}{})
	}
	o := &a.observer
	o.window = o.window.With(w)
	if n, err := a.ledger.Read(); err == nil {
		growth := n.Packets() - o.dropped
		o.peak = max(o.peak, o.growth+growth)
		o.dropped, o.growth = n.Packets(), growth
	}
}

// needed reports whether a hit looks like an answer of something that this host depends on: a resolver, the API or the proxy.
func (a *Agent) needed(h sensor.Hit) bool {
	return h.Kind == sensor.Answer && a.host.AnsweredFrom(h.Port)
}

// tellWindow logs one window: most packets first, at most maxLines lines, and then one for the rest. A count that may be
// short has a plus sign.
func (a *Agent) tellWindow() {
	short := a.missed()
	a.collect()
	w := a.observer.window
	a.observer.window, a.observer.peak = sensor.Window{}, 0
	exact := w.Exact() && !short
	if !exact && !a.observer.inexact {
		a.log.Warn("More packets are dropped than can be told: counts marked + may be short",
			zap.Uint64("lost", a.sensor.Totals().Lost), zap.Uint64("beyondLogRate", a.observer.missing), zap.Uint64("beyondTable", w.Overflow))
	}
	a.observer.inexact = !exact
	var rest uint64
	for i, h := range w.Hits {
		if i >= maxLines {
			rest += h.Packets
			continue
		}
		a.log.Info(a.hitLine(h, exact), a.hitFields(h, exact)...)
	}
	if n := len(w.Hits) - maxLines; n > 0 {
		a.log.Info(fmt.Sprintf("BLOCKED %d more sources and ports %s", n, times(rest, exact)))
	}
}

// missed says whether packets may have been dropped that the sensor never heard of, since the last time it was asked: beyond
// the log rule's limit, or while nobody listened. The counter is read first and the events later, so that packets on their
// way are not taken for missing. When the limit may have let packets go, those that came meanwhile could hide as many, and
// are left out.
func (a *Agent) missed() bool {
	before, err := a.ledger.Read()
	if err != nil {
		return true // not knowing is not exact
	}
	time.Sleep(settle) // also when the agent is stopping: the last window counts
	o, t := &a.observer, a.sensor.Totals()
	seen := t.Events + t.Lost
	if before.Packets() > seen+o.missing {
		o.missing = before.Packets() - seen
		a.seen.miss(o.missing)
		return true
	}
	if o.peak <= uint64(a.cfg.LogRate) { // the limit is as large a bucket, and refilled as fast
		return false
	}
	after, err := a.ledger.Read()
	return err != nil || after.Packets() > seen+o.missing
}

// hitLine is one hit as the operator reads it: BLOCKED 185.16.39.79:23 (telnet) proto=TCP x47, or for answers, which have the
// source's port, BLOCKED answers from 185.16.39.79:443 (https) proto=TCP x3.
func (a *Agent) hitLine(h sensor.Hit, exact bool) string {
	var b strings.Builder
	b.WriteString("BLOCKED ")
	if h.Kind == sensor.Answer {
		b.WriteString("answers from ")
	}
	if h.Port == 0 {
		b.WriteString(h.Source.String())
	} else {
		b.WriteString(netip.AddrPortFrom(h.Source, h.Port).String())
		b.WriteString(" (" + a.service(h.Port) + ")")
	}
	b.WriteString(" proto=" + h.Protocol.String() + " " + times(h.Packets, exact))
	return b.String()
}

// hitFields repeats a hit as fields, for programs that read JSON logs.
func (a *Agent) hitFields(h sensor.Hit, exact bool) []zap.Field {
	if a.cfg.LogFormat != config.LogJSON {
		return nil
	}
	return []zap.Field{
		zap.Stringer("source", h.Source), zap.Uint16("port", h.Port), zap.String("service", a.service(h.Port)),
		zap.Stringer("protocol", h.Protocol), zap.Stringer("kind", h.Kind), zap.Uint64("packets", h.Packets), zap.Bool("exact", exact),
	}
}

// service is the name of a port.
func (a *Agent) service(port uint16) string {
	if name, ok := a.cfg.Ports.Name(port); ok {
		return name
	}
	return fmt.Sprintf("port-%d", port)
}

// packets is how many a window has.
func packets(w sensor.Window) uint64 {
	n := w.Overflow
	for _, h := range w.Hits {
		n += h.Packets
	}
	return n
}

// times prints a packet count.
func times(packets uint64, exact bool) string {
	if exact {
		return fmt.Sprintf("x%d", packets)
	}
	return fmt.Sprintf("x%d+", packets)
}

// events makes the figures add up: what was dropped and not seen is not attributed.
func events(t sensor.Totals, dropped uint64) status.Events {
	e := status.Events{Dropped: dropped, Seen: t.Events, Lost: t.Lost, Unparsed: t.Unparsed, Overflow: t.Overflow}
	if seen := t.Events + t.Lost; dropped > seen {
		e.Unattributed = dropped - seen
	}
	return e
}
