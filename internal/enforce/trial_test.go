package enforce

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// hostile is a host whose checks fail for several reasons: an outage, a list that cuts off, a lost
// packet.
type hostile struct {
	cuts       bool            // the list cuts the host off from the API
	from, till time.Duration   // the outage, since the beginning
	lost       []int           // the probes that are lost
	limit      int             // the gateway answers so many probes, and no more; 0 for all
	refuse     map[string]bool // the changes that the kernel refuses: "with", "without"

	began  time.Time
	probes int
	active bool
	open   time.Duration // how long the list was inactive
	since  time.Time
}

var errAway = errors.New("no answer")

func (h *hostile) trial() trial {
	h.began, h.active = time.Now(), true
	change := func(name string, active bool) func(context.Context) error {
		return func(context.Context) error {
			if h.refuse[name] {
				return errors.New("no buffer space")
			}
			if active && !h.active {
				h.open += time.Since(h.since)
			}
			h.active, h.since = active, time.Now()
			return nil
		}
	}
	return trial{probe: h.probe, with: change("with", true), without: change("without", false)}
}

func (h *hostile) probe(ctx context.Context, names ...string) host.Checks {
	at := time.Since(h.began)
	h.probes++
	gateway, api := host.Check{Name: "gateway"}, host.Check{Name: "API"}
	if at >= h.from && at < h.till || slices.Contains(h.lost, h.probes) {
		gateway.Err, api.Err = errAway, errAway
	}
	if h.cuts && h.active {
		api.Err = errAway
	}
	if h.limit > 0 && h.probes > h.limit {
		gateway.Err = errAway
	}
	if gateway.Err != nil || api.Err != nil {
		clock.Sleep(ctx, time.Second)
	}
	return slices.DeleteFunc(host.Checks{gateway, api},
		func(c host.Check) bool { return !slices.Contains(names, c.Name) })
}

// judge makes a trial in the manner of apply.
func (h *hostile) judge(ctx context.Context) (guilty host.Checks, err error) {
	t := h.trial()
	if broken := t.broken(ctx, host.Checks{
		{Name: "gateway"},
		{Name: "API"},
		{Name: "resolver", Err: errAway},
	}); len(broken) > 0 {
		return t.prove(ctx, broken)
	}
	return nil, nil
}

// TestNoOutageIsBlamedOnAList: a list is not blamed for an outage of any length at any moment of a
// trial, a lost probe, or a gateway that stops answering. Afterwards the list is active, and it was
// not inactive for long.
func TestNoOutageIsBlamedOnAList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var worlds []hostile
		for from := time.Duration(0); from < 8*time.Second; from += 100 * time.Millisecond {
			for _, most := range []time.Duration{
				100 * time.Millisecond, 600 * time.Millisecond,
				1600 * time.Millisecond, 5 * time.Second, time.Hour,
			} {
				worlds = append(worlds, hostile{from: from, till: from + most})
			}
		}
		for i := 1; i < 6; i++ {
			worlds = append(worlds, hostile{lost: []int{i}}, hostile{limit: i}, hostile{lost: []int{1, 2, 3 + i}})
		}
		for _, h := range worlds {
			guilty, err := h.judge(t.Context())
			if len(guilty) > 0 || err != nil || !h.active {
				t.Errorf("outage from %v to %v, lost %v, limit %d: blamed for %v, %v; active: %v", h.from, h.till,
					h.lost, h.limit, guilty, err, h.active)
			}
			if h.open > 3*time.Second {
				t.Errorf("outage from %v to %v: inactive for %v", h.from, h.till, h.open)
			}
		}
	})
}

// TestListThatCutsOffIsProven: such a list is deactivated, and blamed only for the checks that it
// breaks. A single lost probe does not change that.
func TestListThatCutsOffIsProven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, lost := range [][]int{nil, {1}, {2}, {3}, {4}, {5}, {6}} {
			h := hostile{cuts: true, lost: lost}
			guilty, err := h.judge(t.Context())
			if err != nil || len(guilty) != 1 || guilty[0].Name != "API" || guilty[0].Err == nil || h.active {
				t.Errorf("lost %v: blamed for %v, %v; active: %v", lost, guilty, err, h.active)
			}
		}
	})
}

// TestTrialEndsOnAChangingHost: a list that cuts off is proven after a bounded number of rounds,
// even if each survey finds that the host depends on other addresses.
func TestTrialEndsOnAChangingHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for changes, want := range map[int]int{0: trialRounds, 1: trialRounds + 1, 100: trialMost} {
			h := hostile{cuts: true}
			tr := h.trial()
			rounds := 0
			without := tr.without
			tr.without = func(ctx context.Context) error { rounds++; return without(ctx) }
			tr.outdated = func(context.Context) bool { changes--; return changes >= 0 }
			guilty, err := tr.prove(t.Context(), host.Checks{{Name: "API", Err: errAway}})
			if err != nil || len(guilty) != 1 || h.active || rounds != want {
				t.Errorf("blamed for %v, %v, after %d rounds, want %d; active: %v", guilty, err, rounds, want, h.active)
			}
		}
	})
}

// TestTrialEndsWithAnError: a change that the kernel refuses proves nothing, and neither does an
// Enforcer that is stopping.
func TestTrialEndsWithAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, change := range []string{"with", "without"} {
			h := hostile{cuts: true, refuse: map[string]bool{change: true}}
			if guilty, err := h.judge(t.Context()); len(guilty) > 0 || err == nil {
				t.Errorf("%s is refused: blamed for %v, %v", change, guilty, err)
			}
		}
		for after := 100 * time.Millisecond; after < 5*time.Second; after += 100 * time.Millisecond {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			h := hostile{cuts: true}
			if guilty, _ := h.judge(ctx); len(guilty) > 0 && ctx.Err() != nil {
				t.Errorf("stopped after %v: blamed for %v", after, guilty)
			}
			cancel()
		}
	})
}

// TestRejection: a rejection matches the same blocklist and allowlist alone, and ends.
func TestRejection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		list := func(s string) blocklist.Blocklist { return blocklist.New([]netip.Prefix{netip.MustParsePrefix(s)}) }
		d := desired{block: list("203.0.113.0/24"), allow: list("192.0.2.1/32")}
		if (*rejection)(nil).of(d) {
			t.Error("none rejects")
		}
		r := &rejection{rules: d, at: time.Now()}
		for _, tt := range []struct {
			rules desired
			want  bool
		}{
			{d, true},
			{desired{block: d.block, allow: list("192.0.2.2/32")}, false},
			{desired{block: list("203.0.113.0/25"), allow: d.allow}, false},
		} {
			if got := r.of(tt.rules); got != tt.want {
				t.Errorf("%v: got %v, want %v", tt.rules, got, tt.want)
			}
		}
		time.Sleep(rejectedFor + time.Second)
		if r.of(d) {
			t.Error("it does not end")
		}
	})
}
