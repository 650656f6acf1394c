// Package sensor turns packets that a firewall rule logged to NFLOG into hits: who knocked, on which port, by which
// protocol, how many times, and whether that was an attempt or looks like an answer. It counts what it loses on the way.
//
// Mine: the NFLOG group and its socket, the reading of packet headers, the sums of a window. The github.com/florianl/go-nflog
// library appears here alone. Not mine: the rules that log, what a port is called, and what is told to whom.
//
// A packet that was logged ends in exactly one place: a hit, Unparsed (its headers could not be read), Overflow (no room
// for another key), or Lost (the kernel numbered it and it never arrived). All four are exact. What the kernel drops
// before it numbers it, by the rule's own limit or for want of memory, can be seen only in the rule's counter. The kernel
// holds events back for up to 100 ms; what it holds when the sensor is closed is not told.
//
// What can fail: Open, when another program has the group (ErrGroupTaken), when a capability is missing (ErrPermission),
// or when the kernel has no NFLOG (ErrUnsupported); Run, when the socket breaks. After either, Open may be called again:
// the totals go on. A receive buffer that overruns is no failure: it is counted, and makes the window inexact.
package sensor
