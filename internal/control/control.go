// Package control lets the operator ask a running agent for a pull, and how it is, over a socket in the state directory.
//
// The socket's mode is 0600 and its directory's 0700: a user who may open it may also read the API key. So no other user of
// the host can take it or keep it busy, as they can with a TCP port. It speaks HTTP, and knows three requests. A pull and the
// health are the agent's business.
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

	"golang.org/x/net/netutil"
)

const (
	socketName = "control.sock"
	pullPath   = "/pull"
	healthPath = "/healthz"
	alivePath  = "/alive"
	// maxConns bounds the connections and maxPulls the pulls that wait at a time: the rest of the connections stays for the
	// health.
	maxConns, maxPulls = 64, 16
	// maxAnswer is the longest answer that is read, in bytes.
	maxAnswer      = 64 << 10
	headerTimeout  = 2 * time.Second // less than a health check waits
	maxHeaderBytes = 8 << 10
	watchEvery     = time.Second // how often the socket's file is looked at
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
	// Health reports whether the agent does what it is configured to do, with a line why not; nil: it is never asked.
	Health func() (ok bool, text string)
	// Alive returns why the agent should be ended and started again, nil if it goes on; nil: it is never asked.
	Alive func() error
}

// Server is the agent's end.
type Server struct {
	o        Options
	listener *net.UnixListener
	file     os.FileInfo   // of the socket
	pulls    chan struct{} // full while no more may wait
}

// New makes a Server. Nothing is opened yet.
func New(o Options) *Server {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.Dir, 0o700) }
	}
	return &Server{o: o, pulls: make(chan struct{}, maxPulls)}
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
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("make control socket: %w", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil {
		s.file, err = os.Lstat(path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make control socket: %w", err), l.Close())
	}
	s.listener = l
	return nil
}

// errGone is a socket whose file was removed or replaced.
var errGone = errors.New("its file was removed by another program")

// Run answers until ctx ends, and returns nil. The socket goes with it. It fails when the socket's
// file is gone: nobody reaches the agent by it then.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	srv.SetKeepAlivesEnabled(false) // a client that stays after its answer would keep one of few connections from others
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	goneC := make(chan error, 1)
	go func() {
		goneC <- s.watch(ctx)
		_ = srv.Close()
	}()
	err := srv.Serve(netutil.LimitListener(s.listener, maxConns))
	cancel()
	gone := <-goneC
	switch {
	case !errors.Is(err, http.ErrServerClosed):
		return fmt.Errorf("serve control socket: %w", err)
	case gone != nil:
		return fmt.Errorf("serve control socket: %w", gone)
	}
	return nil
}

// watch returns nil when ctx ends, and errGone when the socket's file is gone. The listener then
// removes no file: one of that name is another's.
func (s *Server) watch(ctx context.Context) error {
	path := filepath.Join(s.o.Dir, socketName)
	every := time.NewTicker(watchEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if now, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, s.file) {
				s.listener.SetUnlinkOnClose(false)
				return errGone
			}
		}
	}
}

// handler routes the requests. A client that has gone away loses only the answer.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pullPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		o := Outcome{Text: fmt.Sprintf("%d pulls are waiting already: wait for one of them", maxPulls)}
		select {
		case s.pulls <- struct{}{}:
			defer func() { <-s.pulls }()
			o = s.o.Pull(r.Context(), r.URL.Query().Get("accept") == "true")
		default:
		}
		_ = json.NewEncoder(w).Encode(o)
	})
	mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) {
		var o Outcome
		o.OK, o.Text = s.o.Health()
		_ = json.NewEncoder(w).Encode(o)
	})
	mux.HandleFunc("GET "+alivePath, func(w http.ResponseWriter, _ *http.Request) {
		o := Outcome{OK: true}
		if err := s.o.Alive(); err != nil {
			o = Outcome{Text: err.Error()}
		}
		_ = json.NewEncoder(w).Encode(o)
	})
	return mux
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

// Pull asks the agent whose state directory is dir for a pull, and waits for its outcome.
func Pull(ctx context.Context, dir string, accept bool) (Outcome, error) {
	path := pullPath
	if accept {
		path += "?accept=true"
	}
	o, err := ask(ctx, dir, http.MethodPost, path)
	socket := filepath.Join(dir, socketName)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return o, fmt.Errorf("not permitted to open %s: run this as the user the agent runs as, mostly root", socket)
	case errors.Is(err, errAnswer):
		return o, err
	case err != nil:
		return o, fmt.Errorf("no agent answers at %s: is it running, and is SIKKER_STATE_DIR the same? (%w)", socket, err)
	}
	return o, nil
}

// Health asks the agent whose state directory is dir whether it does what it is configured to do. An error means that none
// answers there.
func Health(ctx context.Context, dir string) (Outcome, error) {
	return ask(ctx, dir, http.MethodGet, healthPath)
}

// Alive asks the agent whose state directory is dir whether it goes on. An error means that none answers there.
func Alive(ctx context.Context, dir string) (Outcome, error) {
	return ask(ctx, dir, http.MethodGet, alivePath)
}

// errAnswer is an answer that cannot be read.
var errAnswer = errors.New("read the agent's answer")

// ask sends one request to the agent.
func ask(ctx context.Context, dir, method, path string) (Outcome, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socketName))
	}}}
	defer client.CloseIdleConnections()
	var o Outcome
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return o, err
	}
	res, err := client.Do(req)
	if err != nil {
		return o, err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&o); err != nil {
		return o, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return o, nil
}
