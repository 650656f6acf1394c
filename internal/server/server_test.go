package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sikkerapi/sikkerguard/internal/server"
)

func TestMain(m *testing.M) {
	if args := os.Getenv(crowdEnv); args != "" {
		if err := crowd(args); err != nil {
			panic(err) // TestMain has no other way to fail
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// source is an agent whose health can be set.
type source struct {
	reason atomic.Value
	note   string // text of a healthy agent
	status any
}

func (s *source) Health() (bool, string) {
	if reason, _ := s.reason.Load().(string); reason != "" {
		return false, reason
	}
	return true, s.note
}

func (s *source) StatusJSON() any {
	if s.status != nil {
		return s.status
	}
	return map[string]int{"blockedIps": 8774}
}

// start serves until the end of the test and returns host:port and the port.
func start(t *testing.T, src server.Source) (string, uint16) {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "blocked", Help: "h"},
		func() float64 { return 8774 }))
	s := server.New(server.Options{Source: src, Metrics: r})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	port := s.Port()
	ctx, cancel := context.WithCancel(t.Context())
	doneC := make(chan error, 1)
	go func() { doneC <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("127.0.0.1:%d", port), port
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	addr, port := start(t, &source{})
	bad := &source{}
	bad.reason.Store("unprotected: pull blacklist:\n503")
	badAddr, _ := start(t, bad)
	dryAddr, _ := start(t, &source{note: "dry run: nothing\n is blocked"})
	hostileAddr, _ := start(t, &source{status: map[string]string{"gap": "a\x1b[2J\u009b\u202eb\n"}})
	v6 := fmt.Sprintf("[::1]:%d", port)
	tests := []struct {
		name, method, addr, path, host string
		status                         int
		body                           string
	}{
		{"OK healthz", "GET", addr, "/healthz", "localhost", 200, "OK\n"},
		{"OK healthz over IPv6", "GET", v6, "/healthz", "[::1]", 200, "OK\n"},
		{"OK HEAD", "HEAD", addr, "/healthz", "localhost:8080", 200, ""},
		{
			"OK not healthy, on one line", "GET", badAddr, "/healthz", "127.0.0.1:1", 503,
			"unprotected: pull blacklist: 503\n",
		},
		{"OK healthy, with a note", "GET", dryAddr, "/healthz", "localhost", 200, "OK, dry run: nothing is blocked\n"},
		{
			"OK a status that a terminal can show", "GET", hostileAddr, "/status", "localhost", 200,
			"{\n  \"gap\": \"a\\u001b[2J  b\\n\"\n}\n",
		},
		{"OK status", "GET", addr, "/status", "127.0.0.1", 200, "{\n  \"blockedIps\": 8774\n}\n"},
		{"OK status with a query", "GET", addr, "/status?x=1", "localhost", 200, "{\n  \"blockedIps\": 8774\n}\n"},
		{
			"OK metrics", "GET", addr, "/metrics", "localhost", 200,
			"# HELP blocked h\n# TYPE blocked gauge\nblocked 8774\n",
		},
		{"OK metrics by HEAD", "HEAD", addr, "/metrics", "localhost", 200, ""},
		{"OK status by HEAD", "HEAD", addr, "/status", "localhost", 200, ""},
		{"bad method for metrics", "POST", addr, "/metrics", "localhost", 405, "only GET and HEAD are allowed\n"},
		{
			"bad host for metrics", "GET", addr, "/metrics", "rebound.example", 421,
			"the Host header must be localhost or a loopback address\n",
		},
		{"bad path", "GET", addr, "/", "localhost", 404, "not found: this server has /healthz, /status and /metrics\n"},
		{
			"bad path below", "GET", addr, "/status/x", "localhost", 404,
			"not found: this server has /healthz, /status and /metrics\n",
		},
		{"bad method", "POST", addr, "/status", "localhost", 405, "only GET and HEAD are allowed\n"},
		{"bad method of a browser", "OPTIONS", addr, "/status", "localhost", 405, "only GET and HEAD are allowed\n"},
		{
			"bad host", "GET", addr, "/status", "rebound.example", 421,
			"the Host header must be localhost or a loopback address\n",
		},
		{
			"bad host that begins well", "GET", addr, "/status", "localhost.rebound.example", 421,
			"the Host header must be localhost or a loopback address\n",
		},
		{
			"bad host of the network", "GET", addr, "/status", "192.0.2.1:8080", 421,
			"the Host header must be localhost or a loopback address\n",
		},
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+tt.addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if res.StatusCode != tt.status || string(body) != tt.body {
			t.Errorf("%s: got %d %q, want %d %q", tt.name, res.StatusCode, body, tt.status, tt.body)
		}
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", tt.name, res.Header)
		}
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			t.Fatalf("listens on %v", l.Addr())
		}
		s := server.New(server.Options{Port: addr.AddrPort().Port(), Source: &source{}})
		if err := s.Listen(); !errors.Is(err, server.ErrPortTaken) {
			t.Errorf("%s: got %v, want %v", host, err, server.ErrPortTaken)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(); err != nil {
			t.Errorf("%s: freed: %v", host, err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestOddClients checks that clients that send garbage, send nothing or never read do not keep
// others from an answer.
func TestOddClients(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, &source{})
	for i := range 40 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		text := []string{
			"", "GET /status", "\x16\x03\x01\x02\x00", "GET / HTTP/9.9\r\n\r\n",
			"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		}[i%5]
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c,
		"GET /status HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("a", 1<<16)+"\r\n\r\n"); err != nil {
		t.Logf("a header too long: %v", err) // the server may close first
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.Contains(line, "431") {
		t.Errorf("a header too long: %q", line)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("beside odd clients: %v", err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("beside odd clients: %d, %v", res.StatusCode, err)
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	src := &source{}
	_, port := start(t, src)
	if answer, err := server.Healthcheck(t.Context(), port); answer != "OK" || err != nil {
		t.Errorf("healthy: %q, %v", answer, err)
	}
	_, dryPort := start(t, &source{note: "dry run"})
	if answer, err := server.Healthcheck(t.Context(), dryPort); answer != "OK, dry run" || err != nil {
		t.Errorf("dry run: %q, %v", answer, err)
	}
	src.reason.Store("starting")
	_, err := server.Healthcheck(t.Context(), port)
	if err == nil {
		t.Fatal("not healthy: no error")
	}
	if diff := cmp.Diff("not healthy: starting", err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if _, err := server.Healthcheck(t.Context(), 1); err == nil ||
		!strings.Contains(err.Error(), "no agent answers on port 1") {
		t.Errorf("no agent: %v", err)
	}
}
