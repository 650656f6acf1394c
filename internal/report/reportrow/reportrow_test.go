package reportrow_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sikkerapi/sikkerguard/internal/report/reportrow"
)

// ports returns n ports from first on.
func ports(first uint16, n int) []uint16 {
	var ps []uint16
	for i := range n {
		ps = append(ps, first+uint16(i))
	}
	return ps
}

func TestMergeAddsPacketsAndWidensTheTime(t *testing.T) {
	t.Parallel()
	source, noon := netip.MustParseAddr("203.0.113.9"), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a := reportrow.Row{
		Source: source, Service: "ssh", Packets: 3, Ports: []uint16{22}, First: noon, Last: noon.Add(time.Minute),
	}
	b := reportrow.Row{Source: source, Packets: 2, Ports: []uint16{2222, 22}, First: noon.Add(-time.Hour), Last: noon}
	want := reportrow.Row{
		Source: source, Service: "ssh", Packets: 5, Ports: []uint16{22, 2222}, First: noon.Add(-time.Hour),
		Last: noon.Add(time.Minute),
	}
	if diff := cmp.Diff(want, a.Merge(b), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("merged row (-want +got):\n%s", diff)
	}
}

func TestMorePortsWhenARowHasNoRoom(t *testing.T) {
	t.Parallel()
	few := reportrow.Row{Ports: ports(1000, reportrow.MaxPorts-1)}
	if few.MorePorts() {
		t.Error("a row with room for another port reports more ports")
	}
	full := few.Merge(reportrow.Row{Ports: ports(2000, 3)})
	if len(full.Ports) != reportrow.MaxPorts || !full.MorePorts() {
		t.Errorf("%d ports, more %t; want %d, true", len(full.Ports), full.MorePorts(), reportrow.MaxPorts)
	}
}
