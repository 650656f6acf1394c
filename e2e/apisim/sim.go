package apisim

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxRequests = 10_000    // remembered
	maxReports  = 1_000_000 // remembered
)

// Options say what to simulate.
type Options struct {
	List  string           // path of the list, read at each request; empty: an empty list
	Key   string           // the only key that is let in
	Tier  string           // free, basic, small, medium or large; empty: free
	Limit int              // addresses a pull; 0: the tier's
	Pulls int              // blacklist pulls a day; 0: 24
	Now   func() time.Time // nil: time.Now
}

// Request is something that was asked.
type Request struct {
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Query  string    `json:"query"`
	Status int       `json:"status"` // 0: no answer yet, or none at all
	Time   time.Time `json:"time"`
}

// Sim is a simulator, an http.Handler. It is safe for concurrent use.
type Sim struct {
	o    Options
	tier tier

	mu       sync.Mutex // held for what follows
	day      time.Time  // the quotas' day
	used     map[quotaName]int
	faults   map[string]*fault
	requests []*Request
	reports  []Report
}

// New makes a simulator. The list is not read yet.
func New(o Options) (*Sim, error) {
	if o.Key == "" {
		return nil, errors.New("simulator needs a key to let in")
	}
	if o.Limit < 0 || o.Pulls < 0 {
		return nil, errors.New("limit and pulls must not be negative")
	}
	if o.Tier == "" {
		o.Tier = "free"
	}
	t, ok := tiers()[o.Tier]
	if !ok {
		return nil, fmt.Errorf("unknown tier %q: want free, basic, small, medium or large", o.Tier)
	}
	if o.Limit > 0 {
		t.addresses = o.Limit
	}
	if o.Pulls > 0 {
		t.quotas[pulls] = o.Pulls
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sim{o: o, tier: t, used: map[quotaName]int{}, faults: map[string]*fault{}}, nil
}

// ServeHTTP answers the API and the control endpoints.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_sim/") {
		s.control(w, r)
		return
	}
	req := s.remember(r)
	sw := &statusWriter{ResponseWriter: w, status: func(status int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		req.Status = status
	}}
	f := s.takeFault(r.URL.Path)
	if f == nil {
		send(sw, r, s.answer(r))
		return
	}
	f.serve(sw, r, func() answer { return s.answer(r) })
}

// answer is what the API says when nothing is wrong with it.
func (s *Sim) answer(r *http.Request) answer {
	ip, isCheck := strings.CutPrefix(r.URL.Path, "/v1/key/check/")
	var handle func(*http.Request) answer
	method := http.MethodGet
	switch {
	case r.URL.Path == "/v1/key/blacklist":
		handle = s.blacklist
	case r.URL.Path == "/v1/key/bulk-report":
		method, handle = http.MethodPost, s.bulkReport
	case r.URL.Path == "/v1/key/status":
		handle = s.status
	case isCheck:
		handle = func(*http.Request) answer { return s.check(ip) }
	default:
		return refuse(http.StatusNotFound, "no such endpoint")
	}
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || subtle.ConstantTimeCompare([]byte(key), []byte(s.o.Key)) != 1 {
		return refuse(http.StatusUnauthorized, "API key missing or invalid")
	}
	if r.Method != method {
		return refuse(http.StatusMethodNotAllowed, "use "+method)
	}
	return handle(r)
}

// remember notes a request when it comes, so that a test sees those that hang as well.
func (s *Sim) remember(r *http.Request) *Request {
	req := &Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Time: s.o.Now().UTC()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = keep(s.requests, maxRequests, req)
	return req
}

// keep appends, and lets the oldest go beyond a number of elements.
func keep[T any](all []T, most int, more ...T) []T {
	all = append(all, more...)
	return all[max(0, len(all)-most):]
}

// Requests is what was asked, the oldest first, without the control endpoints.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, 0, len(s.requests))
	for _, r := range s.requests {
		all = append(all, *r)
	}
	return all
}

// Reports are the rows that were accepted, the oldest first.
func (s *Sim) Reports() []Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Report{}, s.reports...)
}
