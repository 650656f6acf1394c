package agent

import (
	"errors"
	"strings"
	"testing"
)

// TestDryRunTellsLeftoverRules: a dry run beside rules of a killed agent does not say that nothing is
// blocked, nor does one that cannot see whether there are such rules; it does when they are gone.
func TestDryRunTellsLeftoverRules(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
	a.cfg.DryRun = true
	a.greet()
	a.setPulled(pulled{list: listOf("203.0.113.0/24"), at: a.clock.now()})
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		names  []string
		err    error
		code   Code
		health string
		line   string
	}{
		{[]string{"table inet sikkerguard"}, nil, condLeft, "rules of another run of SikkerGuard block", "rules of another run of SikkerGuard block; would block 1 IPs"},
		{[]string{"table inet sikkerguard"}, errors.New("no iptables"), condLeft, "rules of another run of SikkerGuard block", ""},
		{nil, errors.New("not permitted"), condLeftUnseen, "cannot be seen", "cannot be seen; would block 1 IPs"},
		{nil, nil, "", "nothing is blocked", "nothing is blocked: would block 1 IPs"},
	} {
		a.others.inForce = func() ([]string, error) { return tt.names, tt.err }
		a.lookForLeftovers()
		s := a.Status()
		for _, code := range []Code{condLeft, condLeftUnseen} {
			if s.holds(code) != (code == tt.code) {
				t.Errorf("%q, %v: conditions %+v", tt.names, tt.err, s.Conditions)
			}
		}
		if s.State != StateDryRun {
			t.Errorf("%q, %v: the state is %s", tt.names, tt.err, s.State)
		}
		if ok, text := a.Health(); !ok || !strings.Contains(text, tt.health) || strings.Contains(text, "nothing is blocked") != (tt.code == "") {
			t.Errorf("%q, %v: health: %v %q", tt.names, tt.err, ok, text)
		}
		if line := a.statusLine(); !strings.Contains(line, tt.line) || strings.Contains(line, "nothing is blocked") != (tt.code == "") {
			t.Errorf("%q, %v: the service manager is told %q", tt.names, tt.err, line)
		}
	}
	if n := logs.FilterMessage(conditionRow(condLeft).message).Len(); n != 1 {
		t.Errorf("warned %d times", n)
	}
}
