package enforce

import (
	"errors"
	"slices"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// gappy is a firewall with gaps.
type gappy struct {
	kernel

	gaps, detours []string
}

func (g *gappy) Info() ruleset.Info { return ruleset.Info{Gaps: g.gaps, Detours: g.detours} }

// TestGapsAreToldOnce: one that shows with a list is logged then, and again only when it was gone
// in between.
func TestGapsAreToldOnce(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
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

// TestDetoursAreNoWarning: the log names once what the kernel lacks, and warns of nothing when the
// host is as protected.
func TestDetoursAreNoWarning(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
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

// TestLostIsTold: what the watch finds shows at once, however long the enforcing task is busy, and
// is still handed to it.
func TestLostIsTold(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	a.backend.fw = &kernel{}
	a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
	a.rulesLost(errors.New("chain prerouting is missing"))
	if ok, reason := a.o.Board.Health(); ok || reason != "unprotected: "+status.Message(status.CondRules)+": chain prerouting is missing" {
		t.Errorf("health: %v %q", ok, reason)
	}
	if len(a.backend.lostC) != 1 {
		t.Error("the enforcing task is not told")
	}
}
