//go:build e2e_docker

// Package docker runs the image and compose.yaml on a real Docker engine, in a separate network
// namespace.
package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// interrupted ends with SIGINT or SIGTERM: everything that waits for it fails, and the tests clean
// up.
var interrupted context.Context

// shared is a directory for files that one test leaves for the next.
var shared string

// serveEnv makes this program the service to knock on, at the address in its value. Containers run
// it in this way.
const serveEnv = "SIKKERGUARD_E2E_SERVE"

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	interrupted = ctx
	if addr := os.Getenv(serveEnv); addr != "" {
		if err := serve(ctx, addr); err != nil {
			panic(err) // TestMain has no other way to fail
		}
		return
	}
	dir, err := os.MkdirTemp("", "sikkerguard-e2e-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	shared = dir
	m.Run()
}

// serve sends every client the address from which it sees the client, until ctx ends.
func serve(ctx context.Context, addr string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		_, _ = fmt.Fprintln(c, host)
		_ = c.Close()
	}
}
