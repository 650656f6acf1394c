package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/server"
)

// ask sends request unchanged and returns the status of the answer.
func ask(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("read the answer to %q: %v", request, err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// TestHostHeader checks that only requests for a loopback name get an answer, in every spelling of
// it.
func TestHostHeader(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, &source{})
	for _, tt := range []struct {
		name, host string
		want       int
	}{
		{"OK name", "localhost", 200},
		{"OK name in capitals", "LOCALHOST:8080", 200},
		{"OK name with an empty port", "localhost:", 200},
		{"OK IPv4", "127.0.0.1:65535", 200},
		{"OK IPv6", "[::1]", 200},
		{"OK IPv6 with a port", "[::1]:8080", 200},
		{"bad none", "", 421},
		{"bad port", "localhost:evil", 421},
		{"bad port too high", "localhost:65536", 421},
		{"bad name that ends well", "evil.localhost", 421},
		{"bad name that begins well", "127.0.0.1.evil.example", 421},
		{"bad bracket", "[::1", 421},
		{"bad unspecified", "0.0.0.0", 421},
		{"bad IPv6", "[2001:db8::1]:8080", 421},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			request := "GET /status HTTP/1.1\r\nHost: " + tt.host + "\r\nConnection: close\r\n\r\n"
			if got := ask(t, addr, request); got != tt.want {
				t.Errorf("Host %q: got %d, want %d", tt.host, got, tt.want)
			}
		})
	}
}

func TestRequestLines(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, &source{})
	const rest = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name, request string
		want          int
	}{
		{"OK whole URL", "GET http://localhost/healthz" + rest, 200},
		{"bad whole URL of another host", "GET http://rebound.example/healthz" + rest, 421},
		{"bad asterisk", "OPTIONS *" + rest, 405},
		{
			"bad asterisk for another host", "OPTIONS * HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n",
			421,
		},
		{"bad tunnel", "CONNECT localhost:80" + rest, 405},
		{"bad method", "DELETE /status" + rest, 405},
		{"bad method in small letters", "get /status" + rest, 405},
		{"bad line", "GET\r\n\r\n", 400},
		{"bad bytes", "\x00\x01\x02\r\n\r\n", 400},
		{"bad without Host", "GET /status HTTP/1.1\r\n\r\n", 400},
		{"bad two Hosts", "GET /status HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400},
		{"bad old version without Host", "GET /status HTTP/1.0\r\n\r\n", 421},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := ask(t, addr, tt.request); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// large is an agent whose status fills every buffer between the server and a client that does not
// read.
type large struct{ *source }

func (large) StatusJSON() any { return strings.Repeat("x", 16<<20) }

// TestShutdownIsBounded checks that clients that send nothing, read nothing or stay for another
// request do not keep the agent from ending. TestMain checks that no goroutine is left.
func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	s := server.New(server.Options{Source: large{&source{}}})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	port := s.Port()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	doneC := make(chan error, 1)
	go func() { doneC <- s.Run(ctx) }()
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for _, text := range []string{
			"", "GET /heal", "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		} {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort(addr, strconv.Itoa(int(port))))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(text, "\r\n\r\n") {
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err) // it is being answered now
				}
			}
		}
	}
	cancel()
	select {
	case err := <-doneC:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(8 * time.Second):
		t.Fatal("still running long after the two seconds that requests get")
	}
	if _, err := server.Healthcheck(t.Context(), port); err == nil {
		t.Error("answers after the end")
	}
}

// TestListenAgain checks that a Server can listen again after it was closed or failed.
func TestListenAgain(t *testing.T) {
	t.Parallel()
	s := server.New(server.Options{Source: &source{}})
	for range 2 {
		if err := s.Listen(); err != nil {
			t.Fatal(err)
		}
		port := s.Port()
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- s.Run(ctx) }()
		if _, err := server.Healthcheck(t.Context(), port); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	}
}

// TestHealthcheckOfAnother checks that the answer of another program on the port is shown as one
// short line without terminal escapes, and that its redirects are not followed.
func TestHealthcheckOfAnother(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"bad lines and escapes", "not healthy: [31mone two", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "\x1b[31mone\r\n\ttwo\x00\n", http.StatusServiceUnavailable)
		}},
		{"bad nothing", "not healthy: 503 Service Unavailable", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}},
		{"bad redirect", "not healthy: 302 Found", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://192.0.2.1/")
			w.WriteHeader(http.StatusFound)
		}},
		{"bad endless", "not healthy: " + strings.Repeat("x", 4<<10), func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("x", 1<<20), http.StatusServiceUnavailable)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			other := httptest.NewServer(tt.answer)
			t.Cleanup(other.Close)
			u, err := url.Parse(other.URL)
			if err != nil {
				t.Fatal(err)
			}
			port, err := strconv.ParseUint(u.Port(), 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			_, err = server.Healthcheck(t.Context(), uint16(port))
			got := fmt.Sprint(err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHealthcheckPassesOverSilence checks that a program that holds the port over IPv4 and says
// nothing does not hide the agent that answers over IPv6.
func TestHealthcheckPassesOverSilence(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	silent, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	port := silent.Addr().(*net.TCPAddr).AddrPort().Port()
	l, err := lc.Listen(t.Context(), "tcp", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		t.Skipf("no IPv6 loopback: %v", err)
	}
	agent := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.NotFoundHandler()}}
	agent.Start()
	t.Cleanup(agent.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := server.Healthcheck(ctx, port); err == nil || err.Error() != "not healthy: 404 page not found" {
		t.Errorf("got %v, want the answer over IPv6", err)
	}
}
