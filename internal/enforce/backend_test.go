package enforce

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// slow is a kernel whose Apply waits for goC.
type slow struct {
	kernel

	begunC, goC chan struct{}
	applied     atomic.Int32
}

func (s *slow) Apply(context.Context, ruleset.Ruleset) (ruleset.Evidence, error) {
	close(s.begunC)
	<-s.goC
	s.applied.Add(1)
	return ruleset.Evidence{}, nil
}

// TestNoRulesAfterShut: when the agent stops, it waits for an Apply that is under way, and none
// follows. A rollback at that moment would leave rules behind.
func TestNoRulesAfterShut(t *testing.T) {
	t.Parallel()
	k := &slow{begunC: make(chan struct{}), goC: make(chan struct{})}
	g := &gate{Backend: k}
	shutC := make(chan struct{})
	go func() { _, _ = g.Apply(context.Background(), ruleset.Ruleset{}) }()
	<-k.begunC
	go func() {
		defer close(shutC)
		g.shut()
		if k.applied.Load() != 1 {
			t.Error("the gate is shut while rules are applied")
		}
	}()
	close(k.goC)
	<-shutC
	if _, err := g.Apply(context.Background(), ruleset.Ruleset{}); !errors.Is(err, context.Canceled) ||
		k.applied.Load() != 1 {
		t.Errorf("after the end: %v, applied %d times", err, k.applied.Load())
	}
}

// TestUsed: there were rules if this run applied some or a killed agent left some.
func TestUsed(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*gate){
		"none": nil,
		"ours": func(g *gate) { _, _ = g.Apply(context.Background(), ruleset.Ruleset{}) },
		"left": func(g *gate) { g.use() },
	} {
		a, _ := newEnforcer(t)
		a.backend.gate = &gate{Backend: &stubborn{}}
		if use != nil {
			use(a.backend.gate)
		}
		if a.Used() != (use != nil) {
			t.Errorf("%s: got %v", name, a.Used())
		}
	}
}

// gappy is a firewall with gaps.
type gappy struct {
	kernel

	gaps, detours []string
}

func (g *gappy) Info() ruleset.Info { return ruleset.Info{Gaps: g.gaps, Detours: g.detours} }

// TestGapsAreLoggedOnce: a gap that appears with a list is logged then, and again only after it had
// disappeared.
func TestGapsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	a, logs := newEnforcer(t)
	for _, step := range []struct{ gaps, want []string }{
		{[]string{"old"}, []string{"Firewall: old"}},
		{[]string{"old"}, nil},
		{[]string{"old", "left"}, []string{"Firewall: left"}},
		{[]string{"old"}, nil},
		{[]string{"old", "left"}, []string{"Firewall: left"}},
	} {
		a.backend.fw = &gappy{gaps: step.gaps}
		a.logGaps()
		var got []string
		for _, e := range logs.TakeAll() {
			got = append(got, e.Message)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("gaps %q: got %q, want %q", step.gaps, got, step.want)
		}
	}
}

// TestDetoursAreNotWarnings: a kernel feature that is missing but replaced is logged once, and is
// not a warning.
func TestDetoursAreNotWarnings(t *testing.T) {
	t.Parallel()
	a, logs := newEnforcer(t)
	a.backend.fw = &gappy{gaps: []string{"open"}, detours: []string{"slow"}}
	a.logGaps()
	a.logGaps()
	var got []string
	for _, e := range logs.TakeAll() {
		got = append(got, e.Level.String()+" "+e.Message)
	}
	if want := []string{"warn Firewall: open", "info Firewall: slow"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if s := a.o.Board.Status(); !slices.Equal(s.Gaps, []string{"open", "slow"}) {
		t.Errorf("status: gaps %q", s.Gaps)
	}
}

// TestRulesLostIsPublishedAtOnce: a change that the watch finds is published at once, however long
// Run is busy, and is then passed to Run.
func TestRulesLostIsPublishedAtOnce(t *testing.T) {
	t.Parallel()
	a, _ := newEnforcer(t)
	a.backend.fw = &kernel{}
	a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
	a.rulesLost(errors.New("chain prerouting is missing"))
	if ok, reason := a.o.Board.Health(); ok ||
		reason != "unprotected: "+status.Message(status.CondRules)+": chain prerouting is missing" {
		t.Errorf("health: %v %q", ok, reason)
	}
	if len(a.backend.lostC) != 1 {
		t.Error("Run does not receive it")
	}
}
