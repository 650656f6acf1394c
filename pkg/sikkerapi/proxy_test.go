package sikkerapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// askAlone sends a request to an API that does not exist.
func askAlone(t *testing.T, base string) {
	t.Helper()
	c, err := New(testKey, WithBaseURL(base))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, _ = c.Status(ctx)
	c.CloseIdleConnections()
}

// TestProxy sets a proxy in the environment for both schemes. It carries https, and never gets a
// request over plain http, which would show it the key. The environment is read once per process,
// so the client runs in a separate process.
func TestProxy(t *testing.T) {
	t.Parallel()
	if base := os.Getenv("SIKKERAPI_TEST_BASE"); base != "" {
		askAlone(t, base)
		return
	}
	for _, tt := range []struct{ name, base, want string }{
		{"OK https goes by the proxy", "https://10.255.255.254:9", "CONNECT 10.255.255.254:9"},
		{"bad plain http does not", "http://10.255.255.254:9", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var asked []string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, r.Method+" "+r.Host)
				if r.Header.Get("Authorization") != "" {
					t.Error("the proxy sees the key")
				}
				w.WriteHeader(http.StatusBadGateway)
			}))
			t.Cleanup(srv.Close)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxy$")
			cmd.Env = append(os.Environ(), "SIKKERAPI_TEST_BASE="+tt.base, "HTTP_PROXY="+srv.URL,
				"HTTPS_PROXY="+srv.URL,
				"http_proxy="+srv.URL, "https_proxy="+srv.URL, "NO_PROXY=", "no_proxy=")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(asked, "; "); got != tt.want {
				t.Errorf("the proxy got %q, want %q", got, tt.want)
			}
		})
	}
}
