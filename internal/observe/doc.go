// Package observe turns the kernel's events of dropped packets into log lines, one window of ten
// seconds at a time, and into sums by service. It hands each second's hits to its sinks: the
// recorder, and the enforcer, which looks for replies to this host among them.
//
// It says of each window whether its counts are exact. Nothing in it can fail: a kernel that does
// not answer makes a window inexact.
package observe
