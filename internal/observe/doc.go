// Package observe turns the kernel's counts and events of dropped packets into log lines, one window
// of ten seconds at a time, and into sums by service. It passes the hits of each second to its sinks:
// the recorder, and the enforcer, which looks for replies to this host among them.
//
// The kernel counts by source, protocol and port. NFLOG copies the first packet of each, which
// shows the kind and the moment. joiner makes hits of both; labels keeps the kinds; reader reads the
// counts, as often as pace allows; account sums what became known of the packets; named decides which
// hits get a line. If the kernel does not count by source, each packet is logged and the events are
// the hits.
//
// Each window is exact, or its counts are marked. Nothing in it can fail: if the kernel does not
// answer, the window is inexact, and a condition says so if it lasts.
package observe
