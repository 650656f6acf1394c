// Package reportrow has the value that store queues and report sends: the packets of one source to
// one service. It is a separate package so that the two can share it without importing each other.
// No function here can fail.
package reportrow

import (
	"net/netip"
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
