package enforce

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestOutageIsNotBlamedOnTheList: the API is unreachable for a time while a list is applied: a
// first list, one that follows another, or one with a new allowlist. The list is active afterwards
// and is not rejected.
func TestOutageIsNotBlamedOnTheList(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	for _, most := range []time.Duration{
		100 * time.Millisecond, 800 * time.Millisecond, 1200 * time.Millisecond,
		5 * time.Second,
	} {
		t.Run(most.String(), func(t *testing.T) {
			a, h, _ := bench(t)
			blocked := listOf("203.0.113.128/25", "198.51.100.1/32")
			for i, d := range []desired{
				{block: listOf("198.51.100.1/32")},
				{block: blocked},
				{block: blocked, allow: listOf("203.0.113.200/32")},
			} {
				for end := time.Now().Add(20 * time.Second); !reaches(t); {
					if time.Now().After(end) {
						t.Fatal("the API is not reached before")
					}
				}
				h.after = func() { outage(t, most) }
				if err := a.apply(t.Context(), d); err != nil {
					t.Errorf("ruleset %d: %v", i, err)
				}
				if s := a.o.Board.Latest(); s.Rollbacks != 0 || s.BlockedIPs != d.block.Len() ||
					s.State != status.StateActive {
					t.Errorf("ruleset %d: %s, %d rollbacks, blocking %d", i, s.State, s.Rollbacks, s.BlockedIPs)
				}
				if ev, err := h.Verify(); err != nil || ev.Entries() != d.block.Len() {
					t.Errorf("ruleset %d: in the kernel: %d entries, %v", i, ev.Entries(), err)
				}
			}
		})
	}
}

// TestRejectedListIsAppliedLater: a list that cut the host off is not applied again, except with
// another allowlist, after other rules, and after an hour. A rejection never concerns the active
// rules.
func TestRejectedListIsAppliedLater(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, _, _ := bench(t)
	first := desired{block: listOf("198.51.100.1/32")}
	bad := desired{block: listOf("198.51.100.1/32", "203.0.113.0/24")}
	again := func(want bool, d desired) {
		t.Helper()
		var r *RollbackError
		if err := a.apply(t.Context(), d); !errors.As(err, &r) || r.Again != want {
			t.Errorf("got %v, want a rollback, again %v", err, want)
		}
		if !reaches(t) {
			t.Error("the API is not reached")
		}
	}
	if err := a.apply(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	again(false, bad)
	again(true, bad)
	a.trials.rejected.rules = first // whatever it is of
	if err := a.apply(t.Context(), first); err != nil {
		t.Errorf("the active rules are rejected: %v", err)
	}
	again(false, bad) // that cleared the rejection
	again(true, bad)
	for _, next := range []desired{{block: listOf("198.51.100.2/32")}, first} {
		if err := a.apply(t.Context(), next); err != nil {
			t.Fatal(err)
		}
	}
	again(false, bad) // others were active in between
	again(true, bad)
	a.trials.rejected.at = time.Now().Add(-rejectedFor)
	again(false, bad)
	again(false, desired{block: bad.block, allow: listOf("192.0.2.7/32")})
	allowed := desired{block: bad.block, allow: listOf("203.0.113.50/32")}
	if err := a.apply(t.Context(), allowed); err != nil || !reaches(t) {
		t.Errorf("with the API allowlisted: %v", err)
	}
}

// TestMismatchDoesNotRejectTheList: after a mismatch in the kernel the previous rules are restored,
// and the new ones are applied again later.
func TestMismatchDoesNotRejectTheList(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, h, _ := bench(t)
	if err := a.apply(t.Context(), desired{block: listOf("198.51.100.1/32")}); err != nil {
		t.Fatal(err)
	}
	next := desired{block: listOf("198.51.100.1/32", "198.51.100.2/32")}
	h.after = func() { // of the first Apply alone
		mismatch := fmt.Errorf("%w: an element is missing", firewall.ErrMismatch)
		h.err.Store(&mismatch)
	}
	err := a.apply(t.Context(), next)
	h.err.Store(nil)
	var r *RollbackError
	if !errors.Is(err, firewall.ErrMismatch) || errors.As(err, &r) {
		t.Errorf("got %v", err)
	}
	if err := a.apply(t.Context(), next); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

// TestStatusShowsATrial: the status shows a trial while it lasts. If no rules are active during the
// trial, it also shows that.
func TestStatusShowsATrial(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	for name, tt := range map[string]struct {
		before bool // a list is active before
		want   status.State
	}{
		"the first list": {false, status.StateUnprotected},
		"another list":   {true, status.StateDegraded},
	} {
		a, h, logs := bench(t)
		for end := time.Now().Add(20 * time.Second); !reaches(t) && time.Now().Before(end); {
		}
		if tt.before {
			if err := a.apply(t.Context(), desired{block: listOf("198.51.100.1/32")}); err != nil {
				t.Fatal(err)
			}
		}
		lookedC := make(chan struct{})
		h.after = func() {
			outage(t, 5*time.Second)
			go func() {
				defer close(lookedC)
				for end := time.Now().Add(20 * time.Second); !a.o.Board.Latest().Holds(status.CondTrial) &&
					time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				s := a.o.Board.Latest()
				if s.State != tt.want || !strings.Contains(s.Reason, "does not reach: API api.example:9080") {
					t.Errorf("%s: during the trial: %s %q", name, s.State, s.Reason)
				}
			}()
		}
		if err := a.apply(t.Context(), desired{block: listOf("198.51.100.2/32")}); err != nil {
			t.Fatal(err)
		}
		<-lookedC
		if s := a.o.Board.Latest(); s.Holds(status.CondTrial) || s.State != status.StateActive {
			t.Errorf("%s: after the trial: %s %q", name, s.State, s.Reason)
		}
		if logs.FilterMessageSnippet("The list is not the cause").Len() != 1 {
			t.Errorf("%s: the result is not logged: %v", name, logs.All())
		}
		if err := errors.Join(h.Remove(), h.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestListThatCutsOffDuringAnOutageIsFound: during an outage no trial can prove that a list cuts
// the host off. After the outage the checks are made again, and only the address that the host
// needs is let through. While more addresses are let through for the test, the status does not
// report the list as active.
func TestListThatCutsOffDuringAnOutageIsFound(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, h, _ := bench(t)
	var overC <-chan struct{}
	h.after = func() { overC = outage(t, 5*time.Second) }
	if err := a.apply(t.Context(), desired{block: listOf("203.0.113.0/24", "198.51.100.1/32")}); err != nil {
		t.Fatal(err)
	}
	if a.trials.recheck.due() == nil {
		t.Fatal("no recheck is scheduled")
	}
	<-overC
	a.recheckFailed(t.Context())
	if a.active.rules == nil || a.trials.recheck.due() == nil {
		t.Fatal("without dropped replies the list is blamed, or the recheck has ended")
	}
	answers(a, api.Addr())
	a.trials.repliers.add([]sensor.Hit{{Key: sensor.Key{
		Source: netip.MustParseAddr("203.0.113.66"), Port: 53,
		Kind: sensor.Answer,
	}}}, time.Now())
	h.after = func() {
		if s := a.o.Board.Latest(); s.State != status.StateUnprotected || !s.Holds(status.CondOpen) {
			t.Errorf("while addresses are let through: %s %q", s.State, s.Reason)
		}
	}
	a.recheckFailed(t.Context())
	if s := a.o.Board.Latest(); s.Rollbacks != 0 || s.State != status.StateActive || s.Holds(status.CondOpen) {
		t.Errorf("%s, %d rollbacks, %q", s.State, s.Rollbacks, s.Reason)
	}
	if detail := exempted(a); detail != "let through: 203.0.113.50" {
		t.Errorf("the status says %q", detail)
	}
	for addr, want := range map[string]bool{"203.0.113.50": true, "203.0.113.66": false, "203.0.113.51": false} {
		if got := allowlisted(t, addr); got != want {
			t.Errorf("%s is let through: %v", addr, got)
		}
	}
	if !reaches(t) {
		t.Error("the API is not reached")
	}
	a.recheckFailed(t.Context())
	if a.trials.recheck.due() != nil {
		t.Error("the recheck continues")
	}
}

// TestRecheckEndsWithTheOutage: when the failed checks work again, they are not repeated any more.
func TestRecheckEndsWithTheOutage(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, h, _ := bench(t)
	h.after = func() { outage(t, 5*time.Second) }
	if err := a.apply(t.Context(), desired{block: listOf("198.51.100.1/32")}); err != nil {
		t.Fatal(err)
	}
	a.recheckFailed(t.Context())
	if a.trials.recheck.due() == nil {
		t.Error("the recheck ends before the outage")
	}
	for end := time.Now().Add(20 * time.Second); !reaches(t) && time.Now().Before(end); {
	}
	a.recheckFailed(t.Context())
	if a.trials.recheck.due() != nil || a.o.Board.Latest().Rollbacks != 0 {
		t.Error("the recheck does not end with the outage")
	}
}

// TestActiveListIsTestedRarely: replies can be forged, so their sources are let through at most
// every five minutes.
func TestActiveListIsTestedRarely(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, h, logs := bench(t)
	if err := a.apply(t.Context(), desired{block: listOf("198.51.100.1/32")}); err != nil {
		t.Fatal(err)
	}
	outage(t, time.Minute)
	away := &sikkerapi.TemporaryError{Err: errors.New("connection refused")}
	for range 3 {
		answers(a, netip.MustParseAddr("198.51.100.1"))
		before := h.tries.Load()
		a.testAfterPull(t.Context(), away)
		if lettings := logs.FilterMessageSnippet("letting their sources through for a moment").Len(); lettings != 1 {
			t.Errorf("their sources were let through %d times", lettings)
		}
		if h.tries.Load() != before && h.tries.Load() != before+2 {
			t.Errorf("the rules were changed %d times", h.tries.Load()-before)
		}
	}
	a.trials.tested = time.Now().Add(-5 * time.Minute)
	answers(a, netip.MustParseAddr("198.51.100.1"))
	a.testAfterPull(t.Context(), away)
	if lettings := logs.FilterMessageSnippet("letting their sources through for a moment").Len(); lettings != 2 {
		t.Errorf("after five minutes: their sources were let through %d times", lettings)
	}
}

// TestRejectedListDelaysNothing: while the API's list is rejected, a new allowlist becomes active
// with the previous list.
func TestRejectedListDelaysNothing(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, _, _ := bench(t)
	give := func(list, allow blocklist.Blocklist) error {
		a.surveys.publish(newestWith(allow))
		a.sikker().fresh = &accepted{entries: list, at: a.o.Clock.Now()}
		return a.applyAll(t.Context())
	}
	bad := listOf("203.0.113.0/24")
	if err := give(listOf("198.51.100.0/24"), blocklist.Blocklist{}); err != nil {
		t.Fatal(err)
	}
	var r *RollbackError
	for i, allow := range []blocklist.Blocklist{{}, listOf("198.51.100.7/32")} {
		if err := give(bad, allow); !errors.As(err, &r) {
			t.Errorf("turn %d: got %v", i, err)
		}
		if e := a.active.rules; !e.allow.Equal(allow) || e.block.Contains(api.Addr()) ||
			!e.block.Contains(netip.MustParseAddr("198.51.100.8")) {
			t.Errorf("turn %d: active: %v but %v", i, e.block.Prefixes(), e.allow.Prefixes())
		}
	}
	a.reconcile(t.Context(), "changed")
	if a.attempts.stale != nil {
		t.Errorf("the allowlist is stale: %v", a.attempts.stale)
	}
	if err := give(bad, listOf("203.0.113.50/32")); err != nil ||
		!a.active.rules.block.Contains(netip.MustParseAddr("203.0.113.51")) {
		t.Errorf("with the API allowlisted: %v", err)
	}
}
