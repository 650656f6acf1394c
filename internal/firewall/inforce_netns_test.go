package firewall

import (
	"testing"
)

// TestInForce: rules of an agent are seen from the first list to the last rule, and nothing is on a
// host where none block.
func TestInForce(t *testing.T) {
	each(t, func(h *host) {
		seen := func(when string, want int) {
			t.Helper()
			h.Do(func() {
				if names, err := InForce(); len(names) != want || err != nil {
					h.t.Errorf("%s: %q, %v, want %d", when, names, err, want)
				}
			})
		}
		seen("before", 0)
		h.start()
		h.apply(list("203.0.113.9"), list())
		seen("applied", 1)
		h.Do(func() {
			if err := h.fw.Disarm(); err != nil {
				h.t.Error(err)
			}
		})
		seen("disarmed", 0)
	})
}
