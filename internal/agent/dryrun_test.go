package agent

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestDryRunIsNotGreen: nothing that a dry run says of itself can be taken for protection.
func TestDryRunIsNotGreen(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	a.cfg.DryRun = true
	a.greet()
	a.setPulled(pulled{list: listOf("203.0.113.0/24", "198.51.100.7/32", "2001:db8::/48"), at: a.clock.Now()})
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	s := a.board.Status()
	if s.State != status.StateDryRun || s.Healthy || s.BlockedIPs != 0 || s.Blocked4 != 0 || s.Blocked6 != 0 || s.WouldBlock != 3 || s.Verified != nil {
		t.Errorf("status: %+v", s)
	}
	if !s.Holds(status.CondDryRun) {
		t.Errorf("no condition says so: %+v", s.Conditions)
	}
	if line := a.board.Line(); line != "Dry run, nothing is blocked: would block 3 IPs" {
		t.Errorf("the service manager is told %q", line)
	}
	// A container in a dry run is not to be restarted, and who reads the answer sees that it is
	// one.
	if ok, text := a.board.Health(); !ok || !strings.Contains(text, "nothing is blocked") {
		t.Errorf("health: %v %q", ok, text)
	}
	if o := a.outcome(); !o.OK || o.Text != "Would block 3 IPs" {
		t.Errorf("a pull says %+v", o)
	}
}

// TestDashboardShowsDryRun: of the values that the panel Protection can have, 1 alone is green. A
// dry run, whose health is 0 and whose state dry-run is 1, is -1.
func TestDashboardShowsDryRun(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../deploy/grafana/dashboards/sikkerguard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title       string
			Targets     []struct{ Expr string }
			FieldConfig struct {
				Defaults struct {
					Mappings []struct {
						Options map[string]struct{ Text, Color string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		if p.Title != "Protection" {
			continue
		}
		if expr := p.Targets[0].Expr; !strings.Contains(expr, "sikkerguard_healthy{") || !strings.Contains(expr, ` - ignoring (state) sikkerguard_state{`) || !strings.Contains(expr, `state="dry-run"`) {
			t.Errorf("the panel asks for %s", expr)
		}
		for value, shown := range p.FieldConfig.Defaults.Mappings[0].Options {
			if (shown.Color == "green") != (value == "1") || value == "-1" && !strings.Contains(shown.Text, "DRY RUN") {
				t.Errorf("%s is shown as %+v", value, shown)
			}
		}
		return
	}
	t.Error("there is no panel Protection")
}
