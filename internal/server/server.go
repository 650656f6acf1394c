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
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/plain"
)

// healthy begins the answer of an agent that is well.
const healthy = "OK"

const (
	maxConns        = 64 // at a time, on both addresses together
	maxHeaderBytes  = 8 << 10
	maxAnswer       = 4 << 10         // bytes of an answer that a health check reads
	headerTimeout   = 2 * time.Second // less than a health check waits: silent clients must not make it fail
	requestTimeout  = 10 * time.Second
	shutdownTimeout = 2 * time.Second
	connectTimeout  = time.Second // of a health check: nothing on loopback takes that long
	freePortTries   = 10          // a port that is free on 127.0.0.1 is nearly always free on [::1] too
)

// Source is whose health is told.
type Source interface {
	// Health reports whether the agent does what it is configured to do. The text, one line, says why not, or what should be
	// known although it does.
	Health() (ok bool, text string)
	// StatusJSON is a value that encodes as the status.
	StatusJSON() any
}

// Options say where to listen and whom to ask.
type Options struct {
	Port    uint16 // 0 takes a free one
	Source  Source
	Metrics prometheus.Gatherer // nil for none
}

// Server answers on loopback.
type Server struct {
	o         Options
	listeners []net.Listener
	note      string
}

// New makes a Server. Nothing is opened yet.
func New(o Options) *Server { return &Server{o: o} }

// ErrPortTaken means that another program has the port.
var ErrPortTaken = errors.New("the health port is taken by another program: set SIKKER_HEALTH_PORT to a free one")

// Listen takes the port on 127.0.0.1 and [::1]. A host without IPv6 is served over IPv4 alone, and Note says so.
func (s *Server) Listen() error {
	for try := 1; ; try++ {
		err := s.listen()
		if err == nil || s.o.Port != 0 || try == freePortTries || !errors.Is(err, ErrPortTaken) {
			return err
		}
	}
}

// listen takes the port on both addresses, or on none.
func (s *Server) listen() error {
	port := s.o.Port
	s.note = ""
	var lc net.ListenConfig
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
		switch {
		case err == nil:
			s.listeners = append(s.listeners, l)
			port = s.Port()
		case host == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)):
			s.note = "The health endpoint answers on 127.0.0.1 alone: this host has no IPv6 loopback"
		case errors.Is(err, unix.EADDRINUSE):
			return errors.Join(fmt.Errorf("listen on %s port %d: %w", host, port, ErrPortTaken), s.Close())
		case errors.Is(err, unix.EACCES):
			// A container that drops its capabilities has no NET_BIND_SERVICE, root or not.
			return errors.Join(fmt.Errorf("listen on %s port %d: %w: set SIKKER_HEALTH_PORT to 1024 or more", host, port, err), s.Close())
		default:
			return errors.Join(fmt.Errorf("listen on %s port %d: %w", host, port, err), s.Close())
		}
	}
	return nil
}

// Note is what an operator may want to know of the last Listen although it worked; empty: nothing.
func (s *Server) Note() string { return s.note }

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
		ReadTimeout:       headerTimeout, // nothing here has a body: who announces one is not waited for
		WriteTimeout:      requestTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Else net/http answers "OPTIONS *" by itself, to any Host.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // what clients do wrong is not the operator's concern
		ConnContext:                  remember,
	}
	srv.SetKeepAlivesEnabled(false) // who stays after its answer would keep one of few connections from others
	g, gctx := errgroup.WithContext(ctx)
	crowd := newCrowd(maxConns)
	for _, l := range s.listeners {
		l = crowd.listen(l)
		g.Go(func() error {
			if err := panics.Contain(func() error { return srv.Serve(l) }); !errors.Is(err, http.ErrServerClosed) {
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
	metrics := s.metrics()
	mux.Handle("/metrics", metrics)
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		if wantsMetrics(r) {
			metrics.ServeHTTP(w, r)
		} else {
			s.status(w)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "there are /healthz, /status and /metrics", http.StatusNotFound)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked(r.Context())
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

// localName says whether a Host header names this host's loopback, with any port or none.
func localName(host string) bool {
	if h, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" {
			return false
		}
		host = h
	} else if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return false
		}
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Zone() == "" && a.IsLoopback()
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	ok, text := s.o.Source.Health()
	text = plain.Line(text, maxAnswer)
	switch {
	case ok && text == "":
		text = healthy
	case ok:
		text = healthy + ", " + text
	case text == "":
		text = "not healthy"
	}
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, text+"\n") // a client that has gone away loses nothing
}

func (s *Server) status(w http.ResponseWriter) {
	raw, err := json.MarshalIndent(s.o.Source.StatusJSON(), "", "  ")
	if err != nil {
		http.Error(w, "the status cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept")
	// JSON escapes what ends a line, and not all that a terminal obeys.
	_, _ = io.WriteString(w, plain.Text(string(raw))+"\n") // a client that has gone away loses nothing
}

// ErrNotHealthy means that an agent answers, and is not healthy.
var ErrNotHealthy = errors.New("not healthy")

// Healthcheck asks the agent on this host, over IPv4 and then IPv6, and returns its answer, one line, when it does what it is
// configured to do. Else the error says why, or that nobody answers. Each family has half of the time that ctx leaves: another program may hold the
// port in one of them and say nothing.
func Healthcheck(ctx context.Context, port uint16) (answer string, err error) {
	client := &http.Client{
		// No proxy: the agent is here.
		Transport: &http.Transport{
			DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	first, cancel := ctx, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		first, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
	}
	defer cancel()
	answered, answer, err := ask(first, client, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	if answered {
		return answer, err
	}
	if answered, answer, verdict := ask(ctx, client, netip.AddrPortFrom(netip.IPv6Loopback(), port)); answered {
		return answer, verdict
	}
	return "", fmt.Errorf("no agent answers on port %d: %w", port, err) // IPv6 has as a rule the same to say
}

// ask asks for the health. The answer is a good one; err has the agent's other answers, or the reason that there was none.
func ask(ctx context.Context, client *http.Client, addr netip.AddrPort) (answered bool, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+"/healthz", nil)
	if err != nil {
		return false, "", fmt.Errorf("ask %s: %w", addr, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return false, "", err
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return false, "", fmt.Errorf("read the health endpoint's answer: %w", err)
	}
	answer = plain.Line(string(text), maxAnswer)
	if res.StatusCode == http.StatusOK {
		return true, answer, nil
	}
	if answer == "" {
		answer = res.Status
	}
	return true, "", fmt.Errorf("%w: %s", ErrNotHealthy, answer)
}
