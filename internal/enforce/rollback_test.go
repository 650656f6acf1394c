package enforce

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// turnOf makes a turn of r in the manner of Run.
func (e *Enforcer) turnOf(t *testing.T, r *remote, accept bool) time.Duration {
	t.Helper()
	tn := turn{remote: r, order: order{accept: accept}}
	tn.verdict, tn.err = fetch(t.Context(), r.feed, r.vetOptions(), nil)
	return e.refresh(t.Context(), tn)
}

// TestARolledBackFeedStopsNoOther: a list that cuts this host off is rolled back, and the list of
// the other feed is applied. The pulls of that feed go on as before.
func TestARolledBackFeedStopsNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, b := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		e.o.Host = dependent{e.o.Host, k, "192.88.99.7"}
		pull := func(r *remote) time.Duration { return e.turnOf(t, r, false) }
		pull(e.remotes[0])
		pull(e.remotes[1])
		wantDropped(t, k, true, "203.0.113.1", "198.51.100.1")

		a.set("203.0.113.2\n192.88.99.7\n", nil, nil)
		if wait := pull(e.remotes[0]); wait >= e.o.PullInterval {
			t.Errorf("the feed that was rolled back is pulled in %v", wait)
		}
		b.set("198.51.100.2\n", nil, nil)
		wait := pull(e.remotes[1])
		wantDropped(t, k, true, "203.0.113.1", "198.51.100.2")
		if n, left := e.counts.rollbacks, e.attempts.retry.Left(); n != 1 || left < rejectedFor-time.Minute {
			t.Errorf("the list is applied again with another of the other feed: %d rollbacks, retried in %v", n, left)
		}
		wantDropped(t, k, false, "203.0.113.2", "192.88.99.7")
		if s := e.o.Board.Latest(); !s.Holds(status.CondRolledBack) || s.State != status.StateDegraded ||
			!strings.Contains(s.Reason, "reaches: gateway (no answer); add the addresses of these") {
			t.Errorf("rolled back: %s %q", s.State, s.Reason)
		}
		if wait != e.o.PullInterval {
			t.Errorf("the other feed is pulled in %v", wait)
		}
		a.set("203.0.113.2\n", nil, nil)
		pull(e.remotes[0])
		wantDropped(t, k, true, "203.0.113.2", "198.51.100.2")
		if s := e.o.Board.Latest(); s.State != status.StateActive {
			t.Errorf("mended: %s %q", s.State, s.Reason)
		}
		settle(e)
	})
}

// TestARolledBackFeedHidesNoKernelFailure: while the list of one feed is rejected, a list of the
// other that the kernel refuses is tried again soon, and the status reports both.
func TestARolledBackFeedHidesNoKernelFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, b := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		e.o.Host = dependent{e.o.Host, k, "192.88.99.7"}
		pull := func(r *remote) { e.turnOf(t, r, false) }
		pull(e.remotes[0])
		pull(e.remotes[1])
		a.set("203.0.113.2\n192.88.99.7\n", nil, nil)
		pull(e.remotes[0])
		b.set("198.51.100.2\n", nil, nil)
		k.err = errors.New("no buffer space available")
		pull(e.remotes[1])
		if s := e.o.Board.Latest(); !s.Holds(status.CondRolledBack) || !s.Holds(status.CondKernel) {
			t.Errorf("got %s %q", s.State, s.Reason)
		}
		if left := e.attempts.retry.Left(); left > retryMost {
			t.Errorf("it is tried again in %v", left)
		}
		k.err = nil
		e.retryApply(t.Context())
		wantDropped(t, k, true, "203.0.113.1", "198.51.100.2")
		if n := e.counts.rollbacks; n != 1 {
			t.Errorf("%d rollbacks", n)
		}

		time.Sleep(rejectedFor) // it may be tried again now
		e.retryApply(t.Context())
		if n := e.counts.rollbacks; n != 2 {
			t.Errorf("after its time: %d rollbacks", n)
		}
		settle(e)
	})
}

// TestAcceptTriesARolledBackListAgain: a list that was rolled back is applied at the next pull if
// the operator accepts it, and not if it is only pulled.
func TestAcceptTriesARolledBackListAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, _ := twoFeeds(t, "203.0.113.1\n", "")
		h, r := e.o.Host, e.remotes[0]
		e.remotes = e.remotes[:1]
		pull := func(accept bool) { e.turnOf(t, r, accept) }
		e.o.Host = dependent{h, k, "192.88.99.7"}
		pull(false)
		a.set("203.0.113.1\n192.88.99.7\n", nil, nil)
		pull(false)
		if left := e.attempts.retry.Left(); left < rejectedFor || left > rejectedFor+time.Minute {
			t.Errorf("it is tried again in %v by itself", left)
		}
		e.o.Host = dependent{h, k, "192.0.2.1"} // it does not need the address any longer
		pull(false)
		wantDropped(t, k, false, "192.88.99.7")
		pull(true)
		wantDropped(t, k, true, "203.0.113.1", "192.88.99.7")
		settle(e)
	})
}

// TestARejectedListFollowsTheAllowlist: a list that was rolled back is applied as soon as the
// allowlist has the address that this host needs, and not with an allowlist that differs elsewhere.
func TestARejectedListFollowsTheAllowlist(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, a, _ := twoFeeds(t, "203.0.113.1\n", "198.51.100.1\n")
		e.o.Host = dependent{e.o.Host, k, "192.88.99.7"}
		r := e.remotes[0]
		e.turnOf(t, r, false)
		a.set("203.0.113.2\n192.88.99.7\n", nil, nil)
		e.turnOf(t, r, false)
		e.surveys.publish(survey{allow: listOf("192.0.2.1/32")})
		e.applySurvey(t.Context())
		e.turnOf(t, r, false)
		wantDropped(t, k, false, "203.0.113.2")
		if n := e.counts.rollbacks; n != 1 {
			t.Errorf("with an allowlist that differs elsewhere: %d rollbacks", n)
		}
		e.surveys.publish(survey{allow: listOf("192.88.99.7/32")})
		e.applySurvey(t.Context())
		e.turnOf(t, r, false)
		wantDropped(t, k, true, "203.0.113.2")
		settle(e)
	})
}

// TestAListIsNotRejectedForTheAllowlist: if the allowlist shrinks while a list is pulled, and
// without it the other list cuts this host off, the pulled list is applied once the allowlist is
// back.
func TestAListIsNotRejectedForTheAllowlist(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, _, b := twoFeeds(t, "203.0.113.1\n192.88.99.7\n", "198.51.100.1\n")
		e.o.Host = dependent{e.o.Host, k, "192.88.99.7"}
		whole := survey{allow: listOf("192.88.99.7/32")}
		e.surveys.publish(whole)
		e.turnOf(t, e.remotes[0], false)
		e.turnOf(t, e.remotes[1], false)
		e.surveys.publish(survey{})
		b.set("198.51.100.2\n", nil, nil)
		e.turnOf(t, e.remotes[1], false)
		wantDropped(t, k, false, "192.88.99.7", "198.51.100.2")
		e.surveys.publish(whole)
		e.turnOf(t, e.remotes[1], false)
		wantDropped(t, k, true, "203.0.113.1", "198.51.100.2")
		settle(e)
	})
}

// TestWideningDoesNotEndARejection: rules with a smaller allowlist cut this host off. The active
// allowlist is widened by the new addresses, and the rejected rules are not put on trial again.
func TestWideningDoesNotEndARejection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k, _, _ := twoFeeds(t, "203.0.113.1\n192.88.99.7\n", "198.51.100.1\n")
		e.o.Host = dependent{e.o.Host, k, "192.88.99.7"}
		e.surveys.publish(survey{allow: listOf("192.88.99.7/32")})
		e.turnOf(t, e.remotes[0], false)
		e.surveys.publish(survey{white: host.Whitelist{Number: 1}, allow: listOf("192.0.2.1/32")}) // the newest
		for range 3 {                                                                              // as after each reconcileRetry
			e.applySurvey(t.Context())
		}
		if n := e.counts.rollbacks; n != 1 || !e.active.rules.allow.Equal(listOf("192.0.2.1/32", "192.88.99.7/32")) {
			t.Errorf("%d rollbacks, allowed %v", n, e.active.rules.allow.Prefixes())
		}
		wantDropped(t, k, true, "203.0.113.1")
		wantDropped(t, k, false, "192.88.99.7")
		settle(e)
	})
}
