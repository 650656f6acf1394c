package observe

import (
	"maps"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// otherService is the service of every port without a name, so that there are as many services as
// names, and one.
const otherService = "other"

// tally sums the packets that were seen by service. Its methods may be called by any goroutine.
type tally struct {
	mu           sync.Mutex
	services     map[string]uint64 // packets
	unattributed uint64            // packets dropped without an event
}

// add counts the hits by service.
func (t *tally) add(hits []sensor.Hit, portName func(uint16) (string, bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.services == nil {
		t.services = map[string]uint64{}
	}
	for _, h := range hits {
		name, ok := portName(h.Port)
		if !ok || h.Kind == sensor.Answer { // the port of a reply is not this host's
			name = otherService
		}
		t.services[name] += h.Packets
	}
}

// setUnattributed replaces the number of packets without an event.
func (t *tally) setUnattributed(packets uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unattributed = packets
}

// read returns a copy of the sums, never nil, and the number of packets without an event.
func (t *tally) read() (services map[string]uint64, unattributed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	services = make(map[string]uint64, len(t.services))
	maps.Copy(services, t.services)
	return services, t.unattributed
}
