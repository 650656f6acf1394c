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

// healthy begins the answer of a healthy agent.
const healthy = "OK"

const (
	maxConns        = 64 // at a time, on both addresses together
	maxHeaderBytes  = 8 << 10
	maxAnswer       = 4 << 10         // bytes of an answer that a health check reads
	headerTimeout   = 2 * time.Second // less than the timeout of a health check: silent clients must not make it fail
	requestTimeout  = 10 * time.Second
	shutdownTimeout = 2 * time.Second
	connectTimeout  = time.Second // of a health check; a connection on loopback takes far less
	freePortTries   = 10          // a port that is free on 127.0.0.1 is nearly always free on [::1] too
)

// Source provides the health and the status.
type Source interface {
	// Health reports whether the agent works as configured. text is one line: the
	// reason if it does not, or a note if it does.
	Health() (ok bool, text string)
	// StatusJSON returns a value that encodes as the status.
	StatusJSON() any
}

// Options are the settings of a Server.
type Options struct {
	Port    uint16 // 0 takes a free one
	Source  Source
	Metrics prometheus.Gatherer // nil for none
}

// Server serves the endpoints on loopback.
type Server struct {
	o         Options
	listeners []net.Listener
	note      string
}

// New returns a Server. It opens nothing.
func New(o Options) *Server { return &Server{o: o} }

// ErrPortTaken reports that another program has the port.
var ErrPortTaken = errors.New("the health port is taken by another program")

// Listen takes the port on 127.0.0.1 and [::1]. If the host has no IPv6, it listens on IPv4 only,
// and Note says so.
func (s *Server) Listen() error {
	for try := 1; ; try++ {
		err := s.listen()
		if err == nil || s.o.Port != 0 || try == freePortTries || !errors.Is(err, ErrPortTaken) {
			return err
		}
	}
}

// listen takes the port on both addresses. If it fails, it holds neither.
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
			s.note = "The health endpoint listens on 127.0.0.1 only: this host has no IPv6 loopback"
		case errors.Is(err, unix.EADDRINUSE):
			return errors.Join(fmt.Errorf("listen on %s port %d: %w", host, port, ErrPortTaken), s.Close())
		case errors.Is(err, unix.EACCES):
			// If a container drops its capabilities, it has no NET_BIND_SERVICE, even for root.
			return errors.Join(fmt.Errorf("listen on %s port %d: %w: set SIKKER_HEALTH_PORT to 1024 or more",
				host, port, err), s.Close())
		default:
			return errors.Join(fmt.Errorf("listen on %s port %d: %w", host, port, err), s.Close())
		}
	}
	return nil
}

// Note returns a note for the operator about the last Listen, if it succeeded with a limitation;
// otherwise "".
func (s *Server) Note() string { return s.note }

// Port returns the port that Listen took, or 0.
func (s *Server) Port() uint16 {
	if len(s.listeners) == 0 {
		return 0
	}
	return s.listeners[0].Addr().(*net.TCPAddr).AddrPort().Port()
}

// Run serves until ctx ends and then returns nil. Requests under way get two seconds.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout, // no request here has a body, so none is waited for
		WriteTimeout:      requestTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Otherwise net/http itself answers "OPTIONS *", to any Host.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // errors of clients do not concern the operator
		ConnContext:                  withConn,
	}
	srv.SetKeepAlivesEnabled(false) // an idle connection would take one of few from other clients
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
			_ = srv.Close() // a client reads too slowly
		}
		return nil
	})
	err := g.Wait()
	s.listeners = nil
	return err
}

// Close releases the port of a Server that was never run. A second call does nothing.
func (s *Server) Close() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	s.listeners = nil
	return errors.Join(errs...)
}

// handler returns the handler of all requests. It only reads, and refuses requests that do not name
// this host.
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
		http.Error(w, "not found: this server has /healthz, /status and /metrics", http.StatusNotFound)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		markAsked(r.Context())
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch {
		case !localName(r.Host):
			// A web page can point its own name at this address, and a browser then requests it.
			// The Host header is that name.
			http.Error(w, "the Host header must be localhost or a loopback address", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are allowed", http.StatusMethodNotAllowed)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// localName reports whether a Host header names the loopback of this host, with any port or none.
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
	_, _ = io.WriteString(w, text+"\n") // a client that has gone loses nothing
}

func (s *Server) status(w http.ResponseWriter) {
	raw, err := json.MarshalIndent(s.o.Source.StatusJSON(), "", "  ")
	if err != nil {
		http.Error(w, "the status cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept")
	// JSON escapes line ends, but not everything that a terminal interprets.
	_, _ = io.WriteString(w, plain.Text(string(raw))+"\n") // a client that has gone loses nothing
}

// ErrNotHealthy reports that an agent answers and is not healthy.
var ErrNotHealthy = errors.New("not healthy")

// Healthcheck asks the agent on this host for its health, over IPv4 and then IPv6. If the agent
// works as configured, Healthcheck returns its answer, one line. Otherwise the error
// is the reason, or that no agent answers. Each address family has half of the time until the
// deadline of ctx, because another program may hold the port in one family and say nothing.
func Healthcheck(ctx context.Context, port uint16) (answer string, err error) {
	client := &http.Client{
		// No proxy: the agent is on this host.
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
	return "", fmt.Errorf("no agent answers on port %d: %w", port, err) // the error of IPv6 is usually the same
}

// ask requests the health. answered reports whether an agent answered. answer is set if it is
// healthy; err is its other answer, or the reason why there is none.
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
		return false, "", fmt.Errorf("read answer of health endpoint: %w", err)
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
