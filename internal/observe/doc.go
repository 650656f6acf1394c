// Package observe turns the kernel's events of dropped packets into log lines, one window of ten
// seconds at a time, and into sums by service. It passes the hits of each second to its sinks:
// the recorder, and the enforcer, which looks for replies to this host among them.
//
// Each window is exact, or its counts are marked. Nothing in it can fail: if the kernel does not
// answer, the window is inexact.
package observe
