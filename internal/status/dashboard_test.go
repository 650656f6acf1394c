package status

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestDashboardShowsDryRun checks that 1 is the only green value of the panel Protection. A dry run
// has health 0 and state dry-run 1, so its value is -1.
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
		if expr := p.Targets[0].Expr; !strings.Contains(expr, "sikkerguard_healthy{") ||
			!strings.Contains(expr, ` - ignoring (state) sikkerguard_state{`) ||
			!strings.Contains(expr, `state="dry-run"`) {
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
