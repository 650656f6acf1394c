package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// oneStop is how long after the first SIGTERM or SIGINT another one belongs to the same stop:
// timeout(1) signals its child and then its process group, and some supervisors signal twice.
const oneStop = time.Second

// heed sets the effect of signals on a running agent until stop is called. ctx ends with the first
// SIGTERM or SIGINT. Those of the second that follows are ignored, so that the rules are removed; a
// later one ends the process at once, by the default action of the signal.
// Each SIGHUP puts a value into hangupC, which keeps one for a reader that is busy. SIGPIPE is
// ignored: a reader of the log that goes away ends no firewall. So is SIGTTOU: a terminal with
// `stty tostop` stops no background job that is one. A terminal that goes away sends SIGHUP, which
// is a pull, and its log is lost from then on.
func heed(parent context.Context) (ctx context.Context, hangupC <-chan os.Signal, stop func()) {
	signal.Ignore(unix.SIGPIPE, unix.SIGTTOU)
	ctx, end := signal.NotifyContext(parent, unix.SIGTERM, unix.SIGINT)
	later := make(chan *time.Timer, 1)
	context.AfterFunc(ctx, func() { later <- time.AfterFunc(oneStop, end) })
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGHUP)
	return ctx, c, func() {
		signal.Stop(c)
		end()
		(<-later).Stop()
	}
}
