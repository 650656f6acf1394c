package enforce

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// recording is the kernel. It stores the rules that it receives.
type recording struct {
	firewall.Backend

	given   []ruleset.Ruleset
	removed int
	after   func(n int) // called after the n-th Apply; nil for nothing
}

func (r *recording) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	ev, err := r.Backend.Apply(ctx, rs)
	r.given = append(r.given, rs)
	if r.after != nil {
		r.after(len(r.given))
	}
	return ev, err
}

func (r *recording) Remove() error {
	r.removed++
	return r.Backend.Remove()
}

// cutting returns a list that contains the API.
func cutting() blocklist.Blocklist { return listOf("198.51.100.1/32", "203.0.113.0/24") }

// apiKnown returns a survey that contains the API.
func apiKnown() survey { return newestWith(listOf("203.0.113.50/32")) }

// TestOldSurveyIsNotBlamedOnTheList: the host comes to need a listed address while the list is
// applied, or during its trial. The list stays active without that address, is not rejected, and is
// never inactive once the address is known.
func TestOldSurveyIsNotBlamedOnTheList(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	for _, tt := range []struct {
		name  string
		setUp func(a *Enforcer, r *recording)
	}{
		{"a gateway, an address or a resolver changed while it was applied", func(a *Enforcer, _ *recording) {
			a.surveys.local = func(context.Context) host.Whitelist {
				a.surveys.publish(apiKnown())
				return host.Whitelist{}
			}
		}},
		{"a name moved while it was applied", func(a *Enforcer, _ *recording) {
			a.surveys.names = func(context.Context) host.Whitelist {
				a.surveys.publish(apiKnown())
				return host.Whitelist{}
			}
		}},
		{"a change during the trial", func(a *Enforcer, r *recording) {
			r.after = func(n int) {
				if n == 3 { // put back once: the list, the rules before, the list
					a.surveys.publish(apiKnown())
				}
			}
		}},
		{"a change at the end of the trial", func(a *Enforcer, r *recording) {
			r.after = func(n int) {
				if n == 4 { // inactive for the second time
					a.surveys.publish(apiKnown())
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, h, _ := bench(t)
			r := &recording{Backend: h.Backend}
			a.backend.fw = r
			for end := time.Now().Add(20 * time.Second); !reaches(t) && time.Now().Before(end); {
			}
			if err := a.apply(t.Context(), desired{block: listOf("198.51.100.1/32")}); err != nil {
				t.Fatal(err)
			}
			r.given = nil
			tt.setUp(a, r)
			if err := a.apply(t.Context(), desired{block: cutting()}); err != nil {
				t.Fatalf("the list is blamed: %v", err)
			}
			s := a.o.Board.Latest()
			if s.Rollbacks != 0 || s.State != status.StateActive || a.trials.rejected != nil {
				t.Errorf("%s, %d rollbacks, rejected %v", s.State, s.Rollbacks, a.trials.rejected)
			}
			last := r.given[len(r.given)-1]
			if e := a.active.rules; !e.block.Equal(last.Block) || !e.allow.Equal(last.Allow) {
				t.Error("other rules are active than the agent remembers")
			}
			if last.Block.Contains(api.Addr()) || !last.Block.Contains(netip.MustParseAddr("203.0.113.51")) ||
				!reaches(t) {
				t.Errorf("active: %v", last.Block.Prefixes())
			}
			if err := errors.Join(h.Remove(), h.Close()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestOldSurveyCausesNoTestOfTheList: if only the newest survey contains the address that is not
// reached, it is let through, and the active list is not tested.
func TestOldSurveyCausesNoTestOfTheList(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, _, logs := bench(t)
	a.surveys.local = func(context.Context) host.Whitelist { return host.Whitelist{} }
	a.surveys.names = a.surveys.local
	if _, err := a.applyRules(t.Context(), desired{block: cutting()}); err != nil {
		t.Fatal(err)
	}
	a.setActive(desired{block: cutting()})
	answers(a, api.Addr())
	a.surveys.local = func(context.Context) host.Whitelist {
		a.surveys.publish(apiKnown())
		return host.Whitelist{}
	}
	a.testActive(t.Context())
	if logs.FilterMessageSnippet("letting their sources through for a moment").Len() > 0 || exempted(a) != "" {
		t.Errorf("the list is tested; exempted: %q", exempted(a))
	}
	if !reaches(t) || a.active.rules.block.Contains(api.Addr()) {
		t.Errorf("active: %v", a.active.rules.block.Prefixes())
	}
}

// TestTrialFollowsTheHost: an address that the host comes to need during a trial is let through by
// the next step of the trial. A rollback also lets it through.
func TestTrialFollowsTheHost(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	a, h, _ := bench(t)
	r := &recording{Backend: h.Backend}
	a.backend.fw = r
	for end := time.Now().Add(20 * time.Second); !reaches(t) && time.Now().Before(end); {
	}
	a.surveys.publish(newestWith(listOf("192.0.2.1/32")))
	if err := a.apply(t.Context(), desired{block: listOf("198.51.100.0/28")}); err != nil {
		t.Fatal(err)
	}
	r.given = nil
	needed := netip.MustParseAddr("198.51.100.7")
	r.after = func(n int) {
		if n == 1 {
			a.surveys.publish(newestWith(listOf("198.51.100.7/32")))
		}
	}
	var rollback *RollbackError
	if err := a.apply(t.Context(), desired{block: cutting().Union(listOf("198.51.100.0/28"))}); !errors.As(err,
		&rollback) {
		t.Fatalf("got %v, want a rollback", err)
	}
	if i := slices.IndexFunc(r.given[1:], func(rs ruleset.Ruleset) bool { return rs.Block.Contains(needed) }); i >= 0 {
		t.Errorf("step %d of %d blocks the address", i+1, len(r.given))
	}
	if a.active.rules.block.Contains(needed) {
		t.Error("the agent believes that the active rules block it")
	}
}

// TestAdoptedRulesLeaveNoGap: rules of a killed agent are active. Checks fail with the first list,
// and work again later or fail because of an address that replies. Rules are active at every
// moment, and the address is let through in the end.
func TestAdoptedRulesLeaveNoGap(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	for _, cuts := range []bool{false, true} {
		a, h, logs := bench(t)
		r := &recording{Backend: h.Backend}
		a.backend.fw = r
		for end := time.Now().Add(20 * time.Second); !reaches(t) && time.Now().Before(end); {
		}
		if _, err := a.applyRules(t.Context(),
			desired{block: listOf("198.51.100.1/32")}); err != nil { // by the agent before
			t.Fatal(err)
		}
		a.active.adopted, r.given = true, nil
		block := listOf("198.51.100.1/32")
		if cuts {
			block = cutting()
			answers(a, api.Addr())
		} else {
			r.after = func(n int) {
				if n == 1 {
					outage(t, 4*time.Second)
				}
			}
		}
		if err := a.apply(t.Context(), desired{block: block}); err != nil {
			t.Fatal(err)
		}
		if r.removed > 0 || slices.ContainsFunc(r.given,
			func(rs ruleset.Ruleset) bool { return !rs.Block.Contains(netip.MustParseAddr("198.51.100.1")) }) {
			t.Errorf("cuts %v: the host was open", cuts)
		}
		if s := a.o.Board.Latest(); s.State != status.StateActive || s.Rollbacks != 0 || a.active.adopted {
			t.Errorf("cuts %v: %s, %d rollbacks", cuts, s.State, s.Rollbacks)
		}
		if cuts && (!reaches(t) || exempted(a) != "let through: 203.0.113.50") {
			t.Errorf("the API is not reached; exempted: %q", exempted(a))
		}
		if logs.FilterMessageSnippet("Blocking ").Len() != 1 {
			t.Errorf("cuts %v: the log does not have the blocking line once: %v", cuts, logs.All())
		}
		if !cuts && a.trials.recheck.due() == nil {
			t.Error("no recheck is scheduled")
		}
		if err := errors.Join(h.Remove(), h.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAdoptedRulesStayAfterAMismatch: if the kernel does not have the first list, the rules of a
// killed agent stay until the next attempt.
func TestAdoptedRulesStayAfterAMismatch(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.a.active.adopted = true
	l.kernel.rules = ruleset.Ruleset{Block: listOf("203.0.0.1/32")}
	l.a.backend.fw = &wrong{l.kernel}
	l.want(false, false, "enforce the list of 4 entries")
	if l.kernel.rules.Block.Len() != 1 || l.a.active.rules != nil {
		t.Errorf("the kernel has %v", l.kernel.rules.Block.Prefixes())
	}
	l.a.backend.fw = l.kernel
	l.want(false, true, "Blocking 4 IPs")
}

// wrong is a kernel that ignores rules without an error.
type wrong struct{ *toyKernel }

func (*wrong) Apply(context.Context, ruleset.Ruleset) (ruleset.Evidence, error) {
	return ruleset.Evidence{}, firewall.ErrMismatch
}
