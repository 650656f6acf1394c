package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// heed sets the effect of signals on a running agent until stop is called. ctx ends with the first
// SIGTERM or SIGINT; a second one ends the process at once, by the default action of the signal.
// Each SIGHUP puts a value into hangupC, which keeps one for a reader that is busy. SIGPIPE is
// ignored: a reader of the log that goes away ends no firewall. So is SIGTTOU: a terminal with
// `stty tostop` stops no background job that is one. A terminal that goes away sends SIGHUP, which
// is a pull, and its log is lost from then on.
func heed(parent context.Context) (ctx context.Context, hangupC <-chan os.Signal, stop func()) {
	signal.Ignore(unix.SIGPIPE, unix.SIGTTOU)
	ctx, end := signal.NotifyContext(parent, unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(ctx, end)
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGHUP)
	return ctx, c, func() {
		signal.Stop(c)
		end()
	}
}
