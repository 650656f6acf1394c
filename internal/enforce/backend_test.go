package enforce

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// slow is a kernel that begins to apply and goes on when it is told to.
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

// TestNoRulesAfterTheEnd: when the agent stops, an Apply under way is waited for, and none follows:
// a task that rolls a list back just then would leave rules behind.
func TestNoRulesAfterTheEnd(t *testing.T) {
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
	if _, err := g.Apply(context.Background(), ruleset.Ruleset{}); !errors.Is(err, context.Canceled) || k.applied.Load() != 1 {
		t.Errorf("after the end: %v, applied %d times", err, k.applied.Load())
	}
}

// TestUsed: rules were there if this run applied some or a killed agent left some.
func TestUsed(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*gate){
		"none": nil,
		"ours": func(g *gate) { _, _ = g.Apply(context.Background(), ruleset.Ruleset{}) },
		"left": func(g *gate) { g.use() },
	} {
		a, _ := logged(t)
		a.backend.gate = &gate{Backend: &stubborn{}}
		if use != nil {
			use(a.backend.gate)
		}
		if a.Used() != (use != nil) {
			t.Errorf("%s: got %v", name, a.Used())
		}
	}
}
