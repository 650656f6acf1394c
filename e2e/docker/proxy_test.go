//go:build e2e_docker

package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// wayOut starts an HTTP proxy that listens in a namespace without a way out and connects from the
// machine. The build downloads Debian's packages and Go's modules through it. wayOut returns its
// URL.
func wayOut(t *testing.T, ns *nettest.NS) string {
	t.Helper()
	var (
		l   net.Listener
		err error
	)
	ns.Do(func() { l, err = (&net.ListenConfig{}).Listen(interrupted, "tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatalf("listen for the build's requests: %v", err)
	}
	plain := &httputil.ReverseProxy{
		Rewrite:   func(*httputil.ProxyRequest) {}, // the URL of a request to a proxy is absolute
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
	}
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodConnect {
				tunnel(w, r)
				return
			}
			plain.ServeHTTP(w, r)
		}),
	}
	doneC := make(chan error, 1)
	go func() { doneC <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-doneC; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve the build's requests: %v", err)
		}
	})
	return "http://" + l.Addr().String()
}

// tunnel connects the client with the host of its request until one of them ends.
func tunnel(w http.ResponseWriter, r *http.Request) {
	out, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = out.Close() }()
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = in.Close() }()
	if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(interrupted)
	go func() {
		defer cancel()
		_, _ = io.Copy(out, buffered)
	}()
	go func() {
		defer cancel()
		_, _ = io.Copy(in, out)
	}()
	<-ctx.Done()
}
