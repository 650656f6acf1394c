// Package sensor turns packets that a firewall rule logged to NFLOG into hits: source, port,
// protocol, number of packets, and whether they look like an attempt or like an answer. It counts
// its losses.
//
// The package owns the NFLOG group and its socket, the decoding of packet headers and the sums of a
// window. Only this package uses the library github.com/florianl/go-nflog. The rules that log, the
// names of ports, the log lines and the reports belong to other packages.
//
// A logged packet ends in exactly one place: a hit, Unparsed (its headers could not be read),
// Overflow (no room for another key), or Lost (the kernel numbered it and it never arrived). All
// four counts are exact. If the kernel drops an event before it numbers it, because of the limit of
// the rule or for lack of memory, only the counter of the rule shows it. The kernel holds events
// back for up to 100 ms. Events that it still holds when the sensor is closed are not delivered.
//
// Open fails if another program has the group (ErrGroupTaken), if a capability is missing
// (ErrPermission), or if the kernel has no NFLOG (ErrUnsupported). Run fails if the socket breaks.
// After either, Open may be called again; the totals continue. A receive buffer that overruns is
// not a failure: it is counted, and makes the window inexact.
package sensor
