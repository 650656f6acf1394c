package main

import (
	"context"
	"io"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
)

// reloadEvery is the interval at which an invalid configuration is read again. Only files that
// variables name can have changed.
const reloadEvery = 2 * time.Second

// waiting is the line that follows the first reason.
const waiting = "sikkerguard: waiting for valid settings: a corrected file is read again within seconds; after a " +
	"change of a variable, start the agent again\n"

// awaitConfig waits until the configuration is valid or ctx ends. why is the reason that it is
// invalid now. It writes each reason once, and that it waits, and serves the reason at the control
// socket for the health check of a container.
func awaitConfig(ctx context.Context, environ []string, why error, stderr io.Writer) (config.Config, error) {
	for first := true; ; first = false {
		complain(stderr, configError{why})
		if first {
			say(stderr, waiting)
		}
		stop := answerInvalid(ctx, environ, why)
		cfg, err := reload(ctx, environ, why)
		stop()
		if err == nil || ctx.Err() != nil {
			return cfg, ctx.Err()
		}
		why = err
	}
}

// reload reads the configuration repeatedly until it is valid, its error differs from why, or ctx
// ends.
func reload(ctx context.Context, environ []string, why error) (config.Config, error) {
	every := time.NewTicker(reloadEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return config.Config{}, ctx.Err()
		case <-every.C:
		}
		if cfg, err := config.Load(environ); err == nil || err.Error() != why.Error() {
			return cfg, err
		}
	}
}

// answerInvalid serves why at the control socket, as the reason that nothing is protected, until
// stop is called. If the socket cannot be made, nothing answers, which is also not healthy.
func answerInvalid(ctx context.Context, environ []string, why error) (stop func()) {
	dir, err := config.StateDir(environ)
	if err != nil {
		return func() {}
	}
	reason := complaint(configError{why})
	state := statedir.New(dir, true)
	s := control.New(control.Options{
		Dir: dir, Guard: state.Use,
		Pull:   func(context.Context, bool) control.Outcome { return control.Outcome{Text: reason} },
		Health: func() (bool, string) { return false, reason },
		Alive:  func() error { return nil },
	})
	if s.Listen() != nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		_ = s.Run(ctx) // same as a socket that cannot be made
	}()
	return func() {
		cancel()
		<-doneC
	}
}
