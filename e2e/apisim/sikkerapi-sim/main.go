// Command sikkerapi-sim serves the API simulator of package apisim until SIGTERM or SIGINT. It is
// for tests and demos: it has no TLS, and every client that can reach it controls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
)

const (
	headerTimeout = 10 * time.Second
	// stopTimeout is for answers under way; those that a fault holds end at once.
	stopTimeout = 5 * time.Second
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := serve(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	default:
		_, _ = fmt.Fprintln(os.Stderr, "sikkerapi-sim:", err)
		return 1
	}
}

// serve runs the simulator until ctx ends.
func serve(ctx context.Context, args []string, out, usage io.Writer) error {
	flags := flag.NewFlagSet("sikkerapi-sim", flag.ContinueOnError)
	flags.SetOutput(usage)
	var o apisim.Options
	listen := flags.String("listen", "127.0.0.1:0", "address and port; port 0 takes a free one")
	addrFile := flags.String("addr-file", "", "file that gets the address once the simulator listens")
	flags.StringVar(&o.List, "list", "", "file of addresses, one per line, read at each request")
	flags.StringVar(&o.Key, "key", "sk_test_simulator", "accepted API key")
	flags.StringVar(&o.Tier, "tier", "free", "free, basic, small, medium or large")
	flags.IntVar(&o.Limit, "limit", 0, "addresses per pull; 0: the limit of the tier")
	flags.IntVar(&o.Pulls, "pulls", 0, "blacklist pulls per day; 0: 24")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	sim, err := apisim.New(o)
	if err != nil {
		return err
	}
	if o.List != "" {
		if _, err := os.Stat(o.List); err != nil {
			return fmt.Errorf("find list: %w", err)
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	addr := listener.Addr().String()
	if *addrFile != "" {
		if err := writeWhole(*addrFile, addr+"\n"); err != nil {
			return errors.Join(fmt.Errorf("write address: %w", err), listener.Close())
		}
	}
	if _, err := fmt.Fprintf(out, "listening on http://%s\n", addr); err != nil {
		return errors.Join(err, listener.Close())
	}
	return serveOn(ctx, listener, sim)
}

// serveOn serves until ctx ends. Requests inherit ctx, so those that hang end with it.
func serveOn(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	doneC := make(chan error, 1)
	go func() { doneC <- srv.Serve(l) }()
	select {
	case err := <-doneC:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stopping)
	if err != nil {
		err = errors.Join(err, srv.Close())
	}
	if serr := <-doneC; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// writeWhole creates a file atomically with its text, for a program that waits for it.
func writeWhole(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
