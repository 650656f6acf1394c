// Package control serves the requests of the operator's commands to a running agent, over a Unix
// socket in the state directory: pull, health and alive.
//
// The mode of the socket is 0600 and that of its directory 0700. Only a user who may also read the
// API key can open it, so no other user of the host can take it or keep it busy, as is possible
// with a TCP port. The protocol is HTTP with three requests. The agent does the pull and knows the
// health.
//
// Listen fails if the socket cannot be made; the agent then runs without one. Pull, Health and
// Alive fail if no agent answers.
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

	"github.com/sikkerapi/sikkerguard/internal/clock"
)

const (
	socketName = "control.sock"
	pullPath   = "/pull"
	healthPath = "/healthz"
	alivePath  = "/alive"
	// maxConns is the limit of connections, and maxPulls of pulls that wait at a time. The other
	// connections remain for health checks.
	maxConns, maxPulls = 64, 16
	// maxAnswer is the longest answer that is read, in bytes.
	maxAnswer      = 64 << 10
	headerTimeout  = 2 * time.Second // less than the timeout of a health check
	maxHeaderBytes = 8 << 10
	watchEvery     = 5 * time.Second // interval between checks of the socket's file
)

// Outcome is the result of a request.
type Outcome struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"` // one line for the operator
}

// Options are the settings of a Server.
type Options struct {
	Dir string // state directory
	// Guard makes the state directory if it does not exist, and returns an error if its files must
	// not be used now. If nil, the Server only makes the directory.
	Guard func() error
	// Pull pulls and waits for the outcome. If accept is true, it enforces the list that was
	// refused and set aside.
	Pull func(ctx context.Context, accept bool) Outcome
	// Health reports whether the agent works as configured, with one line for the
	// reason or a note. It may be nil if it is never asked.
	Health func() (ok bool, text string)
	// Alive returns nil, or the reason why the agent should be restarted. It may be nil if it is
	// never asked.
	Alive func() error
}

// Server is the agent's end of the socket.
type Server struct {
	o        Options
	listener *net.UnixListener
	file     os.FileInfo   // of the socket
	pulls    chan struct{} // full while no more may wait
}

// New returns a Server. It opens nothing.
func New(o Options) *Server {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.Dir, 0o700) }
	}
	return &Server{o: o, pulls: make(chan struct{}, maxPulls)}
}

// ErrTaken reports that another agent answers at the socket.
var ErrTaken = errors.New("another agent uses this state directory: stop it, or set SIKKER_STATE_DIR to another")

// Listen makes the socket. If a dead agent left one, it is replaced.
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

// errGone reports that the file of the socket was removed or replaced.
var errGone = errors.New("another program removed its file")

// Run serves until ctx ends, removes the socket and returns nil. If the file of the socket is
// removed or replaced, Run returns an error, because no client can reach the agent.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	srv.SetKeepAlivesEnabled(false) // an idle connection would take one of few from other clients
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

// watch returns nil when ctx ends, and errGone when the file of the socket is gone. In the second
// case the listener does not remove the file on closing: a file of that name belongs to another
// program.
func (s *Server) watch(ctx context.Context) error {
	path := filepath.Join(s.o.Dir, socketName)
	every := clock.NewTicker(ctx, watchEvery)
	defer every.Stop()
	for every.Wait() {
		if now, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, s.file) {
			s.listener.SetUnlinkOnClose(false)
			return errGone
		}
	}
	return nil
}

// handler returns the handler of all requests. A client that has gone loses only the answer.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pullPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		o := Outcome{Text: fmt.Sprintf("%d pulls are waiting already: wait until one of them ends", maxPulls)}
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

// Pull asks the agent that uses the state directory dir for a pull and waits for the outcome.
func Pull(ctx context.Context, dir string, accept bool) (Outcome, error) {
	path := pullPath
	if accept {
		path += "?accept=true"
	}
	o, err := ask(ctx, dir, http.MethodPost, path)
	socket := filepath.Join(dir, socketName)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return o, fmt.Errorf("not permitted to open %s: run this as the user of the agent, usually root", socket)
	case errors.Is(err, errAnswer):
		return o, err
	case err != nil:
		return o, fmt.Errorf("no agent answers at %s: is it running, and is SIKKER_STATE_DIR the same? (%w)",
			socket, err)
	}
	return o, nil
}

// Health asks the agent that uses the state directory dir for its health. An error means that no
// agent answers.
func Health(ctx context.Context, dir string) (Outcome, error) {
	return ask(ctx, dir, http.MethodGet, healthPath)
}

// Alive asks the agent that uses the state directory dir whether it should continue. An error means
// that no agent answers.
func Alive(ctx context.Context, dir string) (Outcome, error) {
	return ask(ctx, dir, http.MethodGet, alivePath)
}

// errAnswer reports an answer that cannot be read.
var errAnswer = errors.New("read the agent's answer")

// ask sends one request to the agent.
func ask(ctx context.Context, dir, method, path string) (Outcome, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socketName))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial}}
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
	defer func() { _ = res.Body.Close() }() // only read
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&o); err != nil {
		return o, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return o, nil
}
