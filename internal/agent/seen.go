package agent

import (
	"maps"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// otherService stands for every port that SIKKER_PORT_MAP does not name, so that there are as many services as names there.
const otherService = "other"

// seen sums what the observing task saw, for who asks how the agent does.
type seen struct {
	mu       sync.Mutex
	services map[string]uint64 // packets
	missing  uint64            // packets dropped and never seen
}

// add counts the hits by service.
func (s *seen) add(hits []sensor.Hit, ports config.PortMap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services == nil {
		s.services = map[string]uint64{}
	}
	for _, h := range hits {
		name, ok := ports.Name(h.Port)
		if !ok || h.Kind == sensor.Answer { // whose port is not this host's
			name = otherService
		}
		s.services[name] += h.Packets
	}
}

// miss remembers how many packets were never seen, so far.
func (s *seen) miss(packets uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = packets
}

// hits is a copy of the sums.
func (s *seen) hits() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := make(map[string]uint64, len(s.services))
	maps.Copy(n, s.services)
	return n
}

func (s *seen) unattributed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing
}
