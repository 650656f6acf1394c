// Package clock provides the time as a long-running agent needs it: a wall clock that may be wrong
// or be set, waits that go on while the host is suspended (Alarm), waits that double from one
// failure to the next (Retry), and ticks that wake the process little (Ticker). It makes no decision
// after a wait; its caller does. Nothing in it can fail.
package clock
