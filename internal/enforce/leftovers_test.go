package enforce

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestDryRunReportsLeftoverRules: while rules of a killed agent are active, or may be, a dry run
// does not report that nothing is blocked. It does when they are gone.
func TestDryRunReportsLeftoverRules(t *testing.T) {
	t.Parallel()
	a, logs := newEnforcer(t, "SIKKER_DRY_RUN=true")
	a.setList(a.sikker(), accepted{entries: listOf("203.0.113.0/24"), at: a.o.Clock.Now()})
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		names  []string
		err    error
		code   status.Code
		health string
		line   string
	}{
		{
			[]string{"table inet sikkerguard"},
			nil, status.CondLeft, "rules of another run of SikkerGuard block",
			"rules of another run of SikkerGuard block; would block 1 IPs",
		},
		{
			[]string{"table inet sikkerguard"},
			errors.New("no iptables"), status.CondLeft,
			"rules of another run of SikkerGuard block", "",
		},
		{nil, errors.New("not permitted"), status.CondLeftUnseen, "cannot see whether", "do; would block 1 IPs"},
		{nil, nil, "", "nothing is blocked", "nothing is blocked: would block 1 IPs"},
	} {
		a.backend.leftovers.names = func() ([]string, error) { return tt.names, tt.err }
		a.CheckLeftovers()
		s := a.o.Board.Status()
		for _, code := range []status.Code{status.CondLeft, status.CondLeftUnseen} {
			if s.Holds(code) != (code == tt.code) {
				t.Errorf("%q, %v: conditions %+v", tt.names, tt.err, s.Conditions)
			}
		}
		if s.State != status.StateDryRun {
			t.Errorf("%q, %v: the state is %s", tt.names, tt.err, s.State)
		}
		if ok, text := a.o.Board.Health(); !ok || !strings.Contains(text, tt.health) ||
			strings.Contains(text, "nothing is blocked") != (tt.code == "") {
			t.Errorf("%q, %v: health: %v %q", tt.names, tt.err, ok, text)
		}
		if line := a.o.Board.Line(); !strings.Contains(line, tt.line) ||
			strings.Contains(line, "nothing is blocked") != (tt.code == "") {
			t.Errorf("%q, %v: the service manager receives %q", tt.names, tt.err, line)
		}
	}
	if n := logs.FilterMessage(status.Message(status.CondLeft)).Len(); n != 1 {
		t.Errorf("warned %d times", n)
	}
}

// admitting is a kernel with rules of a killed agent.
type admitting struct {
	toyKernel

	allow blocklist.Blocklist
}

func (k *admitting) Admit(_ context.Context, rs ruleset.Ruleset) error {
	k.allow = k.allow.Union(rs.Allow)
	return nil
}

// TestLeftoverRulesTakeAllowlist: rules of a killed agent let SIKKER_WHITELIST through from the
// start, and the addresses that the host depends on from the first survey. The status reports them
// until a list replaces them or another program removes them.
func TestLeftoverRulesTakeAllowlist(t *testing.T) {
	t.Parallel()
	for _, replaced := range []bool{true, false} {
		a, logs := newEnforcer(t)
		k := &admitting{}
		a.backend.fw, a.o.Host = k, host.New(host.Options{Root: t.TempDir()})
		a.o.Allow = listOf("203.0.113.7/32").Prefixes()
		names := []string{"table inet sikkerguard"}
		a.backend.leftovers.names = func() ([]string, error) { return names, nil }
		a.adoptLeftovers()
		if n := logs.Len(); n != 1 {
			t.Errorf("at the start %d lines are logged: %v", n, logs.All())
		}
		if !k.allow.Equal(listOf("203.0.113.7/32")) {
			t.Errorf("at the start the rules let through %v", k.allow.Prefixes())
		}
		a.surveys.publish(survey{allow: listOf("203.0.113.7/32", "192.0.2.1/32")})
		a.applySurvey(t.Context())
		if !k.allow.Equal(listOf("203.0.113.7/32", "192.0.2.1/32")) {
			t.Errorf("after a survey the rules let through %v", k.allow.Prefixes())
		}
		a.sikker().failure = errors.New("503")
		a.publish()
		if s := a.o.Board.Status(); !s.Holds(status.CondLeft) || s.State != status.StateUnprotected {
			t.Errorf("without a list: %s, %+v", s.State, s.Conditions)
		}
		if replaced {
			a.sikker().list.entries = listOf("198.51.100.1/32")
			if err := a.apply(t.Context(), a.wanted()); err != nil {
				t.Fatal(err)
			}
		} else {
			names = nil
			a.applySurvey(t.Context())
		}
		if s := a.o.Board.Status(); s.Holds(status.CondLeft) || a.active.adopted {
			t.Errorf("replaced %v: %+v", replaced, s.Conditions)
		}
		if n := logs.FilterMessage(status.Message(status.CondLeft)).Len(); n != 1 {
			t.Errorf("warned %d times", n)
		}
	}
}
