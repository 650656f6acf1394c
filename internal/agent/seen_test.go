package agent

import (
	"net/netip"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// TestAnswered: who answered is remembered once, the last of them, until that is asked.
func TestAnswered(t *testing.T) {
	t.Parallel()
	var s seen
	hit := func(i int, kind sensor.Kind) []sensor.Hit {
		return []sensor.Hit{{Key: sensor.Key{Source: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Kind: kind}, Packets: 1}}
	}
	s.add(hit(200, sensor.Attempt), config.PortMap{})
	s.add(hit(201, sensor.Other), config.PortMap{})
	if n := s.answered().Len(); n != 0 {
		t.Errorf("%d sources without an answer", n)
	}
	for i := range maxAsked + 2 {
		s.add(hit(i, sensor.Answer), config.PortMap{})
		s.add(hit(i, sensor.Answer), config.PortMap{})
	}
	got := s.answered()
	for i, want := range map[int]bool{0: false, 1: false, 2: true, maxAsked + 1: true} {
		if addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}); got.Contains(addr) != want {
			t.Errorf("%v: got %v, want %v", addr, !want, want)
		}
	}
	if got.Len() != maxAsked || s.answered().Len() != 0 {
		t.Errorf("%d sources, and afterwards more", got.Len())
	}
}
