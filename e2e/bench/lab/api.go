package lab

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
)

// key is the key that the API accepts.
const key = "sk_test_bench"

// listPath is the path of the list in the API.
const listPath = "/v1/key/blacklist"

// API is the simulator of SikkerAPI on the server. Its answers with the list are prepared before
// they are asked for, as by a cache, so that the time of a refresh is not that of the simulator.
type API struct {
	URL string

	dir string
	srv *http.Server

	mu     sync.Mutex // guards list
	list   []byte     // prepared answer
	answer http.Header
}

// NewAPI starts the API on the server, with an empty list.
func (h *Host) NewAPI(dir string) (*API, error) {
	a := &API{dir: dir}
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the API: %w", err)
	}
	a.URL = "http://" + l.Addr().String()
	sim, err := apisim.New(apisim.Options{Key: key, Limit: 1_000_000, Pulls: 1_000_000})
	if err != nil {
		return nil, err
	}
	a.srv = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != listPath {
				sim.ServeHTTP(w, r)
				return
			}
			a.serveList(w)
		})}
	go func() { _ = a.srv.Serve(l) }() // it ends when the API is closed
	return a, nil
}

func (a *API) serveList(w http.ResponseWriter) {
	a.mu.Lock()
	list, header := a.list, a.answer
	a.mu.Unlock()
	maps.Copy(w.Header(), header)
	_, _ = w.Write(list) // the agent logs a pull that breaks off
}

// Publish makes text the list of the API.
func (a *API) Publish(text string) error {
	file := filepath.Join(a.dir, "list")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	sim, err := apisim.New(apisim.Options{Key: key, Limit: 1_000_000, Pulls: 1_000_000, List: file})
	if err != nil {
		return err
	}
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, listPath+"?plaintext=true", http.NoBody)
	r.Header.Set("Authorization", "Bearer "+key)
	w := httptest.NewRecorder()
	sim.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return fmt.Errorf("prepare the list: status %d", w.Code)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list, a.answer = bytes.Clone(w.Body.Bytes()), w.Header().Clone()
	return nil
}

// Close stops the API.
func (a *API) Close() error { return a.srv.Close() }
