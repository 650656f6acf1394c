package observe

import (
	"maps"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// otherService is the service of every port without a name, so that there are as many services as
// names, and one.
const otherService = "other"

// account sums the dropped packets by what became known of them. Its methods may be called by any
// goroutine.
type account struct {
	mu       sync.Mutex
	services map[string]uint64 // packets of hits, by service
	events   status.Events     // Dropped and Unattributed are not used
	missing  uint64            // packets that were neither seen nor lost when a window ended; never decreases
	owed     uint64            // of them those that are not seen since; at most too many
}

// addEvents counts the packets of a window of events whose packets the kernel does not count by key.
func (a *account) addEvents(w sensor.Window) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events.Seen += w.Events
	a.events.Lost += w.Lost
	a.events.Unparsed += w.Unparsed
}

// addCounts counts the packets that the kernel counted by key, and those that only events show.
func (a *account) addCounts(counts []ruleset.HitCount, alone uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events.Seen += alone
	for _, c := range counts {
		a.events.Seen += c.Packets
	}
}

// addHits counts hits by service, and packets that are in no hit for lack of room.
func (a *account) addHits(hits []sensor.Hit, overflow uint64, portName func(uint16) (string, bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events.Overflow += overflow
	if a.services == nil {
		a.services = map[string]uint64{}
	}
	for _, h := range hits {
		name, ok := portName(h.Port)
		if !ok || h.Kind == sensor.Answer { // the port of a reply is not this host's
			name = otherService
		}
		a.services[name] += h.Packets
	}
}

// miss compares the sums with the packets dropped before they were read. It reports whether more
// packets than before are neither seen nor lost.
func (a *account) miss(dropped uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.events.Seen + a.events.Lost
	if dropped <= known+a.owed {
		return false
	}
	a.owed = dropped - known
	a.missing = max(a.missing, a.owed)
	return true
}

// owes reports whether packets were missed so far.
func (a *account) owes() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owed > 0
}

// settle corrects the packets that were missed by those whose events came late. Otherwise as many that
// are missed later would not show. No more than dropped were dropped when the sums were read last.
func (a *account) settle(dropped uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.owed = min(a.owed, dropped-min(dropped, a.events.Seen+a.events.Lost))
}

// exceeds reports whether dropped is more than the sums and the packets that were missed so far.
func (a *account) exceeds(dropped uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return dropped > a.events.Seen+a.events.Lost+a.owed
}

// read returns the sums, a copy of those by service, which is never nil, and the packets that were
// missed so far.
func (a *account) read() (events status.Events, services map[string]uint64, missing uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	services = make(map[string]uint64, len(a.services))
	maps.Copy(services, a.services)
	return a.events, services, a.missing
}
