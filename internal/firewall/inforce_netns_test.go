package firewall

import (
	"errors"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestInForce checks that InForce names the rules of an agent while they block, and returns nothing
// on a host where no rules block.
func TestInForce(t *testing.T) {
	each(t, func(h *host) {
		check := func(when string, want int) {
			t.Helper()
			h.Do(func() {
				if names, err := InForce(); len(names) != want || err != nil {
					h.t.Errorf("%s: %q, %v, want %d", when, names, err, want)
				}
			})
		}
		check("before", 0)
		h.start()
		h.apply(list("203.0.113.9"), list())
		check("applied", 1)
		h.Do(func() {
			if err := h.fw.Disarm(); err != nil {
				h.t.Error(err)
			}
		})
		check("disarmed", 0)
	})
}

// TestAdmit kills an agent and admits sources with the next agent, of each backend: they pass the
// rules that the first one left. Other listed sources stay blocked, and the next list replaces
// those rules.
func TestAdmit(t *testing.T) {
	each(t, func(h *host) {
		for _, k := range append([]kind{h.kind}, h.beside()...) {
			h.start()
			h.apply(list("203.0.113.0/24", "203.0.114.9", "2001:db8:f::/64"),
				list("10.0.0.0/8", "203.0.113.128/26", "255.255.255.0/24"))
			blocked := nettest.Addrs("203.0.113.9", "203.0.113.8", "2001:db8:f::1", "2001:db8:f::2")
			h.Check(k.name+" applied", blocked, nettest.Addrs("203.0.113.130"))
			if err := h.fw.Close(); err != nil { // as if it was killed
				t.Error(err)
			}
			h.Do(func() {
				fw, err := k.open(true)
				if err != nil {
					h.t.Fatal(err)
				}
				h.fw = fw
			})
			for range 2 {
				h.Do(func() {
					rs := wanted(list(), list("203.0.113.8", "203.0.113.128/25", "255.255.255.128/25", "2001:db8:f::2"))
					if err := h.fw.Admit(h.t.Context(), rs); err != nil {
						h.t.Errorf("%s: admit: %v", k.name, err)
					}
				})
				h.Check(k.name+" admitted", nettest.Addrs("203.0.113.9", "2001:db8:f::1"),
					nettest.Addrs("203.0.113.8", "203.0.113.130", "203.0.113.200", "2001:db8:f::2"))
			}
			h.Do(func() {
				rs := wanted(list("203.0.113.0/24", "2001:db8:f::/64"), list())
				if _, err := h.fw.Apply(h.t.Context(), rs); err != nil {
					h.t.Errorf("%s: apply: %v", k.name, err)
				}
				if err := h.fw.Admit(h.t.Context(), wanted(list(), list("203.0.113.8"))); err != nil {
					h.t.Errorf("%s: admit: %v", k.name, err)
				}
			})
			h.Check(k.name+" replaced", blocked, nil)
			h.Do(func() {
				if err := errors.Join(h.fw.Remove(), h.fw.Close()); err != nil {
					h.t.Error(err)
				}
			})
		}
	})
}
