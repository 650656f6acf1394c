package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHealthcheckPassesOverASocketThatHangs has an agent whose disk hangs, so that it does not
// answer at its control socket. The health check still has time to ask at the port.
func TestHealthcheckPassesOverASocketThatHangs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }() // its connections are never accepted
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "OK\n")
	}))
	defer srv.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(srv.URL, "http://"), ":")
	var out bytes.Buffer
	c := command([]string{"SIKKER_STATE_DIR=" + dir, "SIKKER_HEALTH_PORT=" + port}, &out)
	c.SetArgs([]string{"healthcheck"})
	if err := c.ExecuteContext(t.Context()); err != nil || out.String() != "OK\n" {
		t.Errorf("it prints %q, %v", out.String(), err)
	}
}
