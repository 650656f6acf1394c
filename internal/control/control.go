// Package control lets the operator ask a running agent for a pull, over a socket in the state directory.
//
// The socket's mode is 0600 and its directory's 0700: who may open it is who may read the API key. It speaks HTTP, and
// knows one request. What a pull does is the agent's business.
//
// It can fail because the socket cannot be made (the agent then runs without one), or because no agent answers.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	socketName = "control.sock"
	pullPath   = "/pull"
	// maxAnswer is the longest answer that is read, in bytes.
	maxAnswer      = 64 << 10
	headerTimeout  = 5 * time.Second
	maxHeaderBytes = 8 << 10
)

// Outcome is what came of a pull.
type Outcome struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"` // one line for the operator
}

// Options say where the socket is and what a request does.
type Options struct {
	Dir string // the state directory
	// Guard makes the state directory if need be, and returns why its files must not be used now; nil: it is only made.
	Guard func() error
	// Pull asks for a pull and waits for what comes of it. accept has the list enforced that was refused and kept aside.
	Pull func(ctx context.Context, accept bool) Outcome
}

// Server is the agent's end.
type Server struct {
	o        Options
	listener net.Listener
}

// New makes a Server. Nothing is opened yet.
func New(o Options) *Server {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.Dir, 0o700) }
	}
	return &Server{o: o}
}

// ErrTaken means that another agent answers at the socket.
var ErrTaken = errors.New("another agent uses this state directory: stop it, or set SIKKER_STATE_DIR to another")

// Listen makes the socket, in the place of one that a dead agent left.
func (s *Server) Listen() error {
	if err := s.o.Guard(); err != nil {
		return fmt.Errorf("make control socket: %w", err)
	}
	path := filepath.Join(s.o.Dir, socketName)
	dialer := net.Dialer{Timeout: time.Second}
	if c, err := dialer.DialContext(context.Background(), "unix", path); err == nil {
		return errors.Join(fmt.Errorf("make control socket %s: %w", path, ErrTaken), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make control socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return fmt.Errorf("make control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("make control socket: %w", err), l.Close())
	}
	s.listener = l
	return nil
}

// Run answers until ctx ends, and returns nil. The socket goes with it.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pullPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A client that has gone away loses only the answer.
		_ = json.NewEncoder(w).Encode(s.o.Pull(r.Context(), r.URL.Query().Get("accept") == "true"))
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// Close removes the socket of a Server that was never run.
func (s *Server) Close() error {
	if s.listener == nil {
		return nil
	}
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Pull asks the agent whose state directory is dir for a pull, and waits for what comes of it.
func Pull(ctx context.Context, dir string, accept bool) (Outcome, error) {
	path := filepath.Join(dir, socketName)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	url := "http://agent" + pullPath
	if accept {
		url += "?accept=true"
	}
	var o Outcome
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return o, err
	}
	res, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return o, fmt.Errorf("not permitted to open %s: run this as the user the agent runs as, mostly root", path)
	case err != nil:
		return o, fmt.Errorf("no agent answers at %s: is it running, and is SIKKER_STATE_DIR the same? (%w)", path, err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&o); err != nil {
		return o, fmt.Errorf("read the agent's answer: %w", err)
	}
	return o, nil
}
