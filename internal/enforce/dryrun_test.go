package enforce

import (
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestDryRunIsNotReportedAsProtection: no report of a dry run can be mistaken for protection.
func TestDryRunIsNotReportedAsProtection(t *testing.T) {
	t.Parallel()
	a, _ := newEnforcer(t, "SIKKER_DRY_RUN=true")
	a.setList(a.sikker(), accepted{
		entries: listOf("203.0.113.0/24", "198.51.100.7/32", "2001:db8::/48"),
		at:      a.o.Clock.Now(),
	})
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	s := a.o.Board.Status()
	if s.State != status.StateDryRun || s.Healthy || s.BlockedIPs != 0 || s.Blocked4 != 0 || s.Blocked6 != 0 ||
		s.WouldBlock != 3 || s.Verified != nil {
		t.Errorf("status: %+v", s)
	}
	if line := a.o.Board.Line(); line != "Dry run, nothing is blocked: would block 3 IPs" {
		t.Errorf("the service manager receives %q", line)
	}
	// A container in a dry run is not to be restarted, and who reads the answer sees that it is
	// one.
	if ok, text := a.o.Board.Health(); !ok || !strings.Contains(text, "nothing is blocked") {
		t.Errorf("health: %v %q", ok, text)
	}
	if o := a.outcome(); !o.OK || o.Text != "Would block 3 IPs" {
		t.Errorf("a pull says %+v", o)
	}
}
