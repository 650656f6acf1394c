package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	maxConns        = 64 // at a time, on each of the two addresses
	maxHeaderBytes  = 8 << 10
	maxAnswer       = 4 << 10 // bytes of an answer that a health check reads
	headerTimeout   = 5 * time.Second
	requestTimeout  = 10 * time.Second
	idleTimeout     = 30 * time.Second
	shutdownTimeout = 2 * time.Second
)

// Source is whose health is told.
type Source interface {
	// Health says whether the rules are in force, and if not why, in one line.
	Health() (ok bool, reason string)
	// StatusJSON is a value that encodes as the status.
	StatusJSON() any
}

// Options say where to listen and whom to ask.
type Options struct {
	Port   uint16 // 0 takes a free one
	Source Source
}

// Server answers on loopback.
type Server struct {
	o         Options
	listeners []net.Listener
}

// New makes a Server. Nothing is opened yet.
func New(o Options) *Server { return &Server{o: o} }

// ErrPortTaken means that another program has the port.
var ErrPortTaken = errors.New("the health port is taken by another program: set SIKKER_HEALTH_PORT to a free one")

// Listen takes the port on 127.0.0.1 and [::1]. A host without IPv6 is served over IPv4 alone.
func (s *Server) Listen() error {
	port := s.o.Port
	var lc net.ListenConfig
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
		switch {
		case err == nil:
			port = l.Addr().(*net.TCPAddr).AddrPort().Port()
			s.listeners = append(s.listeners, netutil.LimitListener(l, maxConns))
		case host == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)):
			// no IPv6 on this host
		case errors.Is(err, unix.EADDRINUSE):
			return errors.Join(fmt.Errorf("listen on %s port %d: %w", host, port, ErrPortTaken), s.Close())
		default:
			return errors.Join(fmt.Errorf("listen on %s port %d: %w", host, port, err), s.Close())
		}
	}
	return nil
}

// Port is the port that Listen took.
func (s *Server) Port() uint16 {
	if len(s.listeners) == 0 {
		return 0
	}
	return s.listeners[0].Addr().(*net.TCPAddr).AddrPort().Port()
}

// Run answers until ctx ends, and returns nil; requests that are under way get two seconds.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is not the operator's concern
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve health endpoint: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-gctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if srv.Shutdown(sctx) != nil {
			_ = srv.Close() // somebody reads too slowly
		}
		return nil
	})
	err := g.Wait()
	s.listeners = nil
	return err
}

// Close lets go of the port, for a Server that was never run. Closing twice does nothing.
func (s *Server) Close() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	s.listeners = nil
	return errors.Join(errs...)
}

// handler routes and guards: read-only, for clients that mean this host.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", s.healthz)
	mux.HandleFunc("/status", s.status)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "there are /healthz and /status", http.StatusNotFound)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch {
		case !localName(r.Host):
			// A web page can make a browser ask its own name at this address; then the Host is that name.
			http.Error(w, "ask for localhost", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "GET and HEAD alone", http.StatusMethodNotAllowed)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// localName says whether a Host header names this host's loopback.
func localName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "OK"
	if ok, reason := s.o.Source.Health(); !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = oneLine(reason)
	}
	_, _ = io.WriteString(w, text+"\n") // a client that has gone away loses nothing
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	raw, err := json.MarshalIndent(s.o.Source.StatusJSON(), "", "  ")
	if err != nil {
		http.Error(w, "the status cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(raw, '\n')) // a client that has gone away loses nothing
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Healthcheck asks the agent on this host, over IPv4 and then IPv6, and returns nil when its rules are in force. Else the
// error says why, or that nobody answers.
func Healthcheck(ctx context.Context, port uint16) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := netip.AddrPortFrom(netip.MustParseAddr(host), port)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+"/healthz", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return fmt.Errorf("read the answer of %s: %w", addr, err)
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("not healthy: %s", oneLine(string(text)))
		}
		return nil
	}
	return fmt.Errorf("no agent answers on port %d: %w", port, errors.Join(errs...))
}
