package main

import (
	"context"
	"io"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
)

// reloadEvery is how often a configuration that is not valid is read again. Of it only files can
// change.
const reloadEvery = 2 * time.Second

// awaitConfig waits until the configuration, which is not valid because of why, is valid, or ctx
// ends. It writes each reason once, and answers with it at the control socket, so that the health
// check of a container has it.
func awaitConfig(ctx context.Context, environ []string, why error, stderr io.Writer) (config.Config, error) {
	for {
		complain(stderr, configError{why})
		stop := answerInvalid(ctx, environ, why)
		cfg, err := reload(ctx, environ, why)
		stop()
		if err == nil || ctx.Err() != nil {
			return cfg, ctx.Err()
		}
		why = err
	}
}

// reload reads the configuration again and again, until it is valid, or not valid for another
// reason than why, or ctx ends.
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

// answerInvalid answers at the control socket that nothing is protected, and why, until stop is
// called. If the socket cannot be had nothing answers, which is not healthy either.
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
		_ = s.Run(ctx) // as if it could not be had
	}()
	return func() {
		cancel()
		<-doneC
	}
}
