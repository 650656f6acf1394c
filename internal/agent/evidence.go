package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

const (
	// provenBy and provenOver are how many packets a source must send, and over more than which
	// time, before a report about it is sure enough to be sent without an entry of its own or a
	// connection attempt. The kernel delivers events up to 100 ms late.
	provenBy, provenOver = 3, time.Second + 100*time.Millisecond
	// maxProofs bounds the sources that are remembered, in two generations; a generation also ends
	// with proofFor. Beyond it the source that was seen least recently is forgotten, and begins
	// anew.
	maxProofs, proofFor = 1 << 15, 12 * time.Hour
	// maxHeld bounds the hits that wait for the proof of their source, a few MB. Those without room
	// are in the history alone.
	maxHeld = 1 << 14
)

// verdict is whether a hit is reported.
type verdict uint8

const (
	silent  verdict = iota // never: it proves nothing, or the API does not list its source
	dubious                // when its source is proven
	certain                // at once
)

// evidence decides which hits are reported. Packets can be forged and networks have neighbours: an
// address that the API itself lists is reported from its first connection attempt, and any other
// packets of the API's entries after three of them over more than a second.
type evidence struct {
	outbound outbound

	mu         sync.Mutex
	lists      [2]blocklist.Blocklist // of the API: in force, and in force before
	young, old map[netip.Addr]*proof
	turned     time.Time // when young was begun
	held       int       // hits, of all proofs together
}

// proof is the state of a source that needs one.
type proof struct {
	packets     uint64
	first, last time.Time
	held        []store.Hit // in the history, and in no report yet
}

func (p *proof) complete() bool { return p.packets >= provenBy && p.last.Sub(p.first) > provenOver }

// publish makes list the API's list that is put in force. The one before still counts for packets
// that it dropped.
func (e *evidence) publish(list blocklist.Blocklist) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !list.Equal(e.lists[0]) {
		e.lists = [2]blocklist.Blocklist{list, e.lists[0]}
	}
}

// entry returns the entry of the API's list that covers a source. An entry of the operator's own
// list is none.
func (e *evidence) entry(source netip.Addr) (netip.Prefix, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, list := range e.lists {
		if p, ok := list.Covering(source); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// judge returns the verdict on a hit by itself.
func (e *evidence) judge(h sensor.Hit) verdict {
	if h.Kind != sensor.Attempt {
		return silent
	}
	entry, ok := e.entry(h.Source)
	if !ok {
		return silent
	}
	switch h.Protocol {
	case sensor.TCP, sensor.SCTP:
		if entry.IsSingleIP() {
			return certain
		}
	case sensor.ICMP, sensor.ICMPv6:
	default:
		if !e.outbound.isService(h.Port, h.Source, h.Last) {
			return silent
		}
	}
	return dubious
}

// see takes hits of the observing task, which end now, and remembers those that help to prove their
// source.
func (e *evidence) see(hits []sensor.Hit, now time.Time) {
	e.outbound.look(hits, now)
	e.outbound.check(hits, now)
	for _, h := range hits {
		if e.judge(h) == dubious {
			e.add(h)
		}
	}
}

func (e *evidence) add(h sensor.Hit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.find(h.Source, h.Last)
	if p.packets == 0 || h.First.Before(p.first) {
		p.first = h.First
	}
	if h.Last.After(p.last) {
		p.last = h.Last
	}
	p.packets += h.Packets
}

// find returns the proof of a source, a new one if there is none.
func (e *evidence) find(source netip.Addr, now time.Time) *proof {
	if len(e.young) >= maxProofs || now.Sub(e.turned) > proofFor {
		for _, p := range e.old {
			e.held -= len(p.held)
		}
		e.old, e.young, e.turned = e.young, nil, now
	}
	if e.young == nil {
		e.young = map[netip.Addr]*proof{}
	}
	p := e.known(source)
	if p == nil {
		p = &proof{}
	}
	delete(e.old, source)
	e.young[source] = p
	return p
}

// known returns the proof of a source; nil if there is none.
func (e *evidence) known(source netip.Addr) *proof {
	if p := e.young[source]; p != nil {
		return p
	}
	return e.old[source]
}

// proven reports whether the source is proven, and returns its hits that waited for that.
func (e *evidence) proven(source netip.Addr) (held []store.Hit, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.known(source)
	if p == nil || !p.complete() {
		return nil, false
	}
	return p.held, true
}

// settle is called when rows have been recorded: those that waited wait no longer, and the dubious
// ones begin to wait.
func (e *evidence) settle(rows, dubious []store.Hit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range rows {
		if p := e.known(r.Source); r.Held && p != nil {
			e.held -= len(p.held)
			p.held = nil
		}
	}
	for _, r := range dubious {
		if p := e.known(r.Source); p != nil && e.held < maxHeld {
			r.Held, r.Silent = true, false
			p.held = append(p.held, r)
			e.held++
		}
	}
}
