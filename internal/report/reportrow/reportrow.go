// Package reportrow has the value that store queues and report sends: the packets of one source to
// one service. It is a separate package so that the two can share it without importing each other.
// No function here can fail.
package reportrow

import (
	"net/netip"
	"slices"
	"time"
)

// MaxPorts is the largest number of ports in a row. All ports of a scan would take 400 kB.
const MaxPorts = 20

// Row is one report row: the packets of one source to one service.
type Row struct {
	Source  netip.Addr
	Service string // empty if the service is unknown or the row is merged from several
	Packets uint64
	Ports   []uint16 // at most MaxPorts, in order of arrival
	First   time.Time
	Last    time.Time
}

// MorePorts reports whether the source may have used ports that are not in r.Ports.
func (r Row) MorePorts() bool { return len(r.Ports) == MaxPorts }

// Merge returns r and another row of the same source as one row, with the service of r. It may
// append to r.Ports in place, so r must not be used afterwards.
func (r Row) Merge(o Row) Row {
	r.Packets += o.Packets
	for _, p := range o.Ports {
		if !r.MorePorts() && !slices.Contains(r.Ports, p) {
			r.Ports = append(r.Ports, p)
		}
	}
	if o.First.Before(r.First) {
		r.First = o.First
	}
	if o.Last.After(r.Last) {
		r.Last = o.Last
	}
	return r
}
