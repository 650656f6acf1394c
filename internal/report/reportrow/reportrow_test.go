package reportrow_test

import (
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/report/reportrow"
)

func TestMorePortsWhenARowHasNoRoom(t *testing.T) {
	t.Parallel()
	if few := (reportrow.Row{Ports: make([]uint16, reportrow.MaxPorts-1)}); few.MorePorts() {
		t.Error("a row with room for another port reports more ports")
	}
	if full := (reportrow.Row{Ports: make([]uint16, reportrow.MaxPorts)}); !full.MorePorts() {
		t.Error("a row without room for another port reports no more ports")
	}
}
