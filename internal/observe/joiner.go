package observe

import (
	"slices"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// maxEvents bounds the events that wait for a reading of the kernel's counts, to some 7 MB. A key
// whose event finds no room is counted nevertheless.
const maxEvents = 1 << 16

// joiner makes hits of the kernel's counts by key and of the NFLOG events. The kernel logs the first
// packet of a key alone, so the event says of which kind a key is and when it began, and the counts
// say how many packets it has. The event is not added to the counts: its packet is among them. Only
// packets that found no room in any set are counted by their events, which the kernel marks.
//
// If the kernel does not count by key, it logs each packet, and the events are the hits.
type joiner struct {
	events   []sensor.Hit  // not joined yet
	beyond   uint64        // packets of events without room
	received sensor.Window // the events and the losses among them, without hits
	held     []counted     // counts that wait for the event of their key
	labels   labels
}

// counted is the packets of a key that were dropped between two readings.
type counted struct {
	ruleset.HitCount

	from, to time.Time
}

// add adds the events of w.
func (j *joiner) add(w sensor.Window) {
	for _, h := range w.Hits {
		if len(j.events) >= maxEvents {
			j.beyond += h.Packets
			continue
		}
		j.events = append(j.events, h)
	}
	w.Hits = nil
	j.received = j.received.With(w)
}

// waits reports whether there are events or counts that are in no hit yet.
func (j *joiner) waits() bool {
	return len(j.events) > 0 || len(j.held) > 0 || !j.received.Exact()
}

// alone returns the events as hits, for a kernel that does not count by key. A key can occur twice.
func (j *joiner) alone() sensor.Window {
	w := j.received
	w.Hits, w.Overflow = append(j.events, j.flush().Hits...), w.Overflow+j.beyond // held from when it did
	j.events, j.beyond, j.received = nil, 0, sensor.Window{}
	return w
}

// join returns the hits of counts, which the kernel counted from one reading to the next, and of the
// packets that found no room; a key can occur twice. A count whose key needs an event that has not
// arrived is held until the next call.
func (j *joiner) join(counts []ruleset.HitCount, from, to time.Time) sensor.Window {
	m := matching{labels: &j.labels}
	m.events, m.out = j.byKey()
	m.out = slices.Grow(m.out, len(j.held)+len(counts)+len(m.events))
	j.events, j.beyond, j.received = nil, 0, sensor.Window{}
	j.labels.expire(to)
	for k, e := range m.events {
		j.labels.put(k, e.Key)
	}
	held := j.held
	j.held = nil
	for _, c := range held {
		if !m.match(c) {
			m.guess(c)
		}
	}
	var portless []counted
	for _, n := range counts {
		c := counted{n, from, to}
		switch {
		case n.Class == ruleset.Portless:
			portless = append(portless, c)
		case !m.match(c):
			j.held = append(j.held, c)
		}
	}
	if len(portless) > 0 {
		m.regroup()
	}
	for _, c := range portless {
		if !m.matchPortless(c) {
			j.held = append(j.held, c)
		}
	}
	return sensor.Window{Hits: m.out}
}

// flush returns the hits of the counts that are held, without their events.
func (j *joiner) flush() sensor.Window {
	m := matching{labels: &j.labels}
	for _, c := range j.held {
		m.guess(c)
	}
	j.held = nil
	return sensor.Window{Hits: m.out}
}

// byKey returns the events by the key under which the kernel counts their packets, and those of
// packets without a key. Of several events of one key the earliest decides.
func (j *joiner) byKey() (events map[ruleset.HitKey]sensor.Hit, alone []sensor.Hit) {
	events = make(map[ruleset.HitKey]sensor.Hit, len(j.events))
	for _, e := range j.events {
		if e.Alone {
			alone = append(alone, e)
			continue
		}
		k := keyOf(e)
		if other, ok := events[k]; ok {
			if e.First.After(other.First) {
				e, other = other, e
			}
			e.Packets += other.Packets
			e.Last = other.Last
		}
		events[k] = e
	}
	return events, alone
}

// withoutKey returns the packets of the events that wait and are not in a key.
func (j *joiner) withoutKey() (packets uint64) {
	for _, e := range j.events {
		if e.Alone {
			packets += e.Packets
		}
	}
	return packets
}

// keyOf returns the key under which the kernel counts the packets of an event, unless a set is full.
func keyOf(e sensor.Hit) ruleset.HitKey {
	k := ruleset.HitKey{
		Source: e.Source, Protocol: uint8(e.Protocol), Port: e.CountedBy, Class: ruleset.Knock,
	}
	switch {
	case e.Protocol == sensor.ICMP && e.Kind == sensor.Answer: // an echo reply has type 0 and code 0
		k.Class = ruleset.Reply
	case e.CountedBy == 0:
		k.Class = ruleset.Portless
	case e.Protocol == sensor.TCP && e.Kind != sensor.Attempt, e.Protocol.IsICMP():
		k.Class = ruleset.Reply
	}
	return k
}

// matching is one call of join.
type matching struct {
	events   map[ruleset.HitKey]sensor.Hit   // without a count so far
	portless map[ruleset.HitKey][]sensor.Hit // the same, by source and protocol
	labels   *labels
	out      []sensor.Hit
}

// match makes hits of c. It returns false if the kind of its key is not known.
func (m *matching) match(c counted) bool {
	e, begun := m.events[c.HitKey]
	rest, known := m.labels.of(c.HitKey)
	if !begun && !known {
		return false
	}
	if begun {
		delete(m.events, c.HitKey)
		c = m.emitEvent(c, e)
		if !known {
			rest = e.Key
		}
	}
	m.emit(rest, c)
	return true
}

// emitEvent makes a hit of the packets of c that have an event, and returns c without them.
func (m *matching) emitEvent(c counted, e sensor.Hit) counted {
	e.Packets = min(e.Packets, c.Packets)
	if e.First.After(c.to) { // it was on its way at the reading
		e.First = c.to
	}
	if e.Last.After(c.to) {
		e.Last = c.to
	}
	m.out = append(m.out, e)
	c.Packets -= e.Packets
	if e.First.After(c.from) {
		c.from = e.First
	}
	return c
}

// emit makes a hit of c, unless it has no packets.
func (m *matching) emit(k sensor.Key, c counted) {
	if c.Packets == 0 {
		return
	}
	within := c.to.Sub(c.from)
	m.out = append(m.out, sensor.Hit{
		Key: k, Packets: c.Packets, First: c.from, Last: c.to, FirstWithin: within, LastWithin: within,
	})
}

// guess makes a hit of c, whose event was lost. Its kind is Other, which is never reported.
func (m *matching) guess(c counted) {
	k := sensor.Key{Source: c.Source, Protocol: sensor.Protocol(c.Protocol), Kind: sensor.Other}
	if c.Class == ruleset.Knock {
		k.Port = c.Port
	}
	m.emit(k, c)
}

// regroup finds the events whose packets the kernel counts by source and protocol alone: those of
// protocols without ports, and those that found a set full. With iptables it counts those by source
// alone, under protocol 0.
func (m *matching) regroup() {
	m.portless = map[ruleset.HitKey][]sensor.Hit{}
	for k, e := range m.events {
		for _, protocol := range []uint8{k.Protocol, 0} {
			by := ruleset.HitKey{Source: k.Source, Protocol: protocol, Class: ruleset.Portless}
			m.portless[by] = append(m.portless[by], e)
		}
	}
}

// matchPortless is match for a key of source and protocol alone.
func (m *matching) matchPortless(c counted) bool {
	for _, e := range m.portless[c.HitKey] {
		m.labels.put(c.HitKey, e.Key)
		c = m.emitEvent(c, e)
		if c.Packets == 0 {
			return true
		}
	}
	rest, known := m.labels.of(c.HitKey)
	if known {
		m.emit(rest, c)
	}
	return known
}
