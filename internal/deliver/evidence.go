package deliver

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

const (
	// provenBy is the number of packets that prove a source which has no entry of its own, or makes
	// no connection attempt. They must come over more than provenOver. The kernel delivers events
	// up to 100 ms late.
	provenBy, provenOver = 3, time.Second + 100*time.Millisecond
	// maxProofs bounds the sources in memory, in two generations. A generation also ends after
	// proofFor. Beyond the bound the source that was seen least recently is forgotten; it needs a
	// new proof.
	maxProofs, proofFor = 1 << 15, 12 * time.Hour
	// maxHeld bounds the hits that wait for the proof of their source, a few MB. Hits without room
	// are in the history alone.
	maxHeld = 1 << 14
	// maxLate bounds the hits that wait for the next reading of the tracked connections. Hits
	// without room are in the history alone.
	maxLate = 1 << 12
)

// verdict is the decision whether a hit is reported.
type verdict uint8

const (
	silent  verdict = iota // never: it proves nothing, or the API does not list its source
	dubious                // when its source is proven
	certain                // at once
)

// evidence decides which hits are reported. Packets can be forged, and networks have innocent
// neighbours. So an address that the API itself lists is reported from its first connection
// attempt. Any other packets that the API's entries cover are reported after three of them over
// more than a second.
type evidence struct {
	outbound outbound

	mu         sync.Mutex
	list       blocklist.Blocklist // the API's list that is active
	gone       blocklist.Blocklist // the entries of the list before it that list lacks
	young, old map[netip.Addr]*proof
	turned     time.Time // when young was begun
	held       int       // hits, of all proofs together

	late      sensor.Window // datagrams that the next reading of the tracked connections decides
	undecided uint64        // packets of datagrams that no reading decided, so far
}

// proof is the state of a source that needs one.
type proof struct {
	packets     uint64
	first, last time.Time   // the first packet came by first, the last one not before last
	held        []store.Hit // in the history, and in no report yet
}

func (p *proof) complete() bool { return p.packets >= provenBy && p.last.Sub(p.first) > provenOver }

// setListed replaces the API's list that is active. The list before it still counts for packets
// that it dropped.
func (e *evidence) setListed(list blocklist.Blocklist) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !list.Equal(e.list) {
		e.list, e.gone = list, e.list.Except(list)
	}
}

// entry returns the entry of the API's list that covers a source. The entries of the operator's
// list do not count.
func (e *evidence) entry(source netip.Addr) (netip.Prefix, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.list.Covering(source); ok {
		return p, true
	}
	return e.gone.Covering(source)
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
	case sensor.UDP:
		if !e.outbound.isService(h.Port, h.Source, h.Last) {
			return silent
		}
	default: // which side began is unknown
		return silent
	}
	return dubious
}

// add takes the hits of the last second and counts those that help to prove their source. It
// returns the hits to record. Some of the datagrams among them wait for a later call.
func (e *evidence) add(hits []sensor.Hit, now time.Time) sensor.Window {
	w := sensor.Window{Hits: hits}
	if late := e.takeLate(); len(late.Hits) > 0 {
		w = late.With(w)
	}
	e.outbound.update(w.Hits, now)
	e.outbound.check(w.Hits, now)
	w.Hits = e.ready(e.withoutExpired(w.Hits, now), now)
	for _, h := range w.Hits {
		if e.judge(h) == dubious {
			e.count(h)
		}
	}
	return w
}

// withoutExpired returns hits, with datagrams that no reading of the tracked connections can decide as
// hits of the kind Other. It leaves the slice as it is, which others read.
func (e *evidence) withoutExpired(hits []sensor.Hit, now time.Time) []sensor.Hit {
	shared := true
	for i, h := range hits {
		if !e.outbound.isExpired(h, now) {
			continue
		}
		if shared {
			hits, shared = slices.Clone(hits), false
		}
		hits[i].Kind = sensor.Other
		if _, listed := e.entry(h.Source); listed {
			e.mu.Lock()
			e.undecided += h.Packets
			e.mu.Unlock()
		}
	}
	return hits
}

// ready returns the hits that do not wait. It leaves the slice as it is, which others read.
func (e *evidence) ready(hits []sensor.Hit, now time.Time) []sensor.Hit {
	for i, h := range hits {
		if e.wait(h, now) {
			rest := slices.DeleteFunc(slices.Clone(hits[i+1:]), func(h sensor.Hit) bool { return e.wait(h, now) })
			return slices.Concat(hits[:i], rest)
		}
	}
	return hits
}

// wait reports whether h waits for the next reading of the tracked connections.
func (e *evidence) wait(h sensor.Hit, now time.Time) bool {
	undecided, soon := e.outbound.isUndecided(h, now)
	if !undecided {
		return false
	}
	if _, listed := e.entry(h.Source); !listed {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if soon && len(e.late.Hits) < maxLate {
		e.late.Hits = append(e.late.Hits, h)
		return true
	}
	e.undecided += h.Packets
	return false
}

// undecidedPackets returns the packets of datagrams that no reading decided, so far.
func (e *evidence) undecidedPackets() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.undecided
}

// takeLate removes the hits that wait for a reading, and returns them.
func (e *evidence) takeLate() (late sensor.Window) {
	e.mu.Lock()
	defer e.mu.Unlock()
	late, e.late = e.late, sensor.Window{}
	return late
}

// count adds h to the proof of its source. Of packets whose times are not exact, only the time that
// is certainly between them counts.
func (e *evidence) count(h sensor.Hit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.find(h.Source, h.Last)
	if first := h.FirstBy(); p.packets == 0 || first.Before(p.first) {
		p.first = first
	}
	if last := h.LastFrom(); last.After(p.last) {
		p.last = last
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

// proven reports whether the source is proven, and returns its hits that waited for the proof.
func (e *evidence) proven(source netip.Addr) (held []store.Hit, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.known(source)
	if p == nil || !p.complete() {
		return nil, false
	}
	return p.held, true
}

// settle is called after rows were recorded. Those of them that waited for a proof wait no longer,
// and the dubious ones begin to wait.
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
