package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is the time after the first SIGTERM or SIGINT in which another one belongs to the same
// stop: timeout(1) signals its child and then its process group, and some supervisors signal twice.
const stopGrace = time.Second

// watchSignals sets the effect of signals on a running agent until stop is called. ctx ends with
// the first SIGTERM or SIGINT. Others within stopGrace are ignored, so that the rules are removed;
// a later one ends the process at once, by the default action of the signal. Each SIGHUP puts a
// value into hangupC, which holds one while the reader is busy. SIGPIPE is ignored, so that a
// reader of the log that goes away does not end the firewall. SIGTTOU is ignored, so that a
// terminal with `stty tostop` does not stop a background job. A terminal that goes away sends
// SIGHUP, which causes a pull, and the log is lost from then on.
func watchSignals(parent context.Context) (ctx context.Context, hangupC <-chan os.Signal, stop func()) {
	signal.Ignore(unix.SIGPIPE, unix.SIGTTOU)
	ctx, end := signal.NotifyContext(parent, unix.SIGTERM, unix.SIGINT)
	later := make(chan *time.Timer, 1)
	context.AfterFunc(ctx, func() { later <- time.AfterFunc(stopGrace, end) })
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGHUP)
	return ctx, c, func() {
		signal.Stop(c)
		end()
		(<-later).Stop()
	}
}
