package agent

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

// TestRemovalOfNothingIsNotTold: an agent that never had rules in force does not say that it removed them.
func TestRemovalOfNothingIsNotTold(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*gate){
		"none": nil,
		"ours": func(g *gate) { _, _ = g.Apply(context.Background(), ruleset.Ruleset{}) },
		"left": func(g *gate) { g.use() },
	} {
		a, logs := logged(t)
		a.gate = &gate{Backend: &stubborn{}}
		a.fw = a.gate
		if use != nil {
			use(a.gate)
		}
		a.tellRemoved(nil)
		if n := logs.FilterMessage("Firewall rules removed").Len(); (n == 1) != (use != nil) {
			t.Errorf("%s: it is told %d times", name, n)
		}
	}
}

// busy is a kernel that refuses to remove the rules as long as another task holds them.
type busy struct {
	kernel

	by    atomic.Bool
	tries atomic.Int32
}

func (*busy) Disarm() error { return nil }

func (b *busy) Remove() error {
	b.tries.Add(1)
	if b.by.Load() {
		return errors.New("device or resource busy")
	}
	return nil
}

// TestRulesAreRemovedOnceTheirHolderEnded: a stop removes the rules before it waits for the tasks, and
// again if the kernel refused that. An error remains only if the kernel refuses both times.
func TestRulesAreRemovedOnceTheirHolderEnded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		before, after  bool // held until the tasks have ended, and then
		tries, removed int
	}{
		{"OK at once", false, false, 1, 1},
		{"OK once the task has ended", true, false, 2, 1},
		{"bad held for ever", true, true, 2, 0},
	} {
		a, logs := logged(t)
		k := &busy{}
		k.by.Store(tt.before)
		a.gate = &gate{Backend: k}
		a.fw = a.gate
		a.gate.use()
		err := a.takeOut(func() error {
			if k.tries.Load() != 1 {
				t.Errorf("%s: the tasks are waited for before the rules are removed", tt.name)
			}
			k.by.Store(tt.after)
			return nil
		})
		if n := logs.FilterMessage("Firewall rules removed").Len(); n != tt.removed || (err == nil) != (n == 1) {
			t.Errorf("%s: the removal is told %d times, error %v", tt.name, n, err)
		}
		if n := int(k.tries.Load()); n != tt.tries {
			t.Errorf("%s: removed %d times, want %d", tt.name, n, tt.tries)
		}
	}
}
