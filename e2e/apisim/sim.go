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
	maxRequests = 10_000    // stored
	maxReports  = 1_000_000 // stored
)

// Options are the settings of a Sim.
type Options struct {
	List  string           // path of the list, read at each request; empty for an empty list
	Key   string           // the only accepted key
	Tier  string           // free, basic, small, medium or large; empty for free
	Limit int              // addresses per pull; 0 for the limit of the tier
	Pulls int              // blacklist pulls per day; 0 for 24
	Now   func() time.Time // if nil, time.Now
}

// Request is a request to the API.
type Request struct {
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Query  string    `json:"query"`
	Status int       `json:"status"` // 0 if there is no answer (yet)
	Time   time.Time `json:"time"`
}

// Sim is a simulator, an http.Handler. It is safe for concurrent use.
type Sim struct {
	o    Options
	tier tier

	mu       sync.Mutex // guards the fields below
	day      time.Time  // day of the quotas
	used     map[quotaName]int
	faults   map[string]*fault
	requests []*Request
	reports  []Report
}

// New returns a simulator. It does not read the list.
func New(o Options) (*Sim, error) {
	if o.Key == "" {
		return nil, errors.New("simulator needs a key to accept")
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
	req := s.record(r)
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

// answer returns the answer of the API without a fault.
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

// record stores a request when it arrives, so that a test also sees those that hang.
func (s *Sim) record(r *http.Request) *Request {
	req := &Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Time: s.o.Now().UTC()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = appendLast(s.requests, maxRequests, req)
	return req
}

// appendLast appends elements and drops the oldest beyond most.
func appendLast[T any](all []T, most int, more ...T) []T {
	all = append(all, more...)
	return all[max(0, len(all)-most):]
}

// Requests returns the requests, the oldest first, without those to control endpoints.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, 0, len(s.requests))
	for _, r := range s.requests {
		all = append(all, *r)
	}
	return all
}

// Reports returns the accepted rows, the oldest first.
func (s *Sim) Reports() []Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Report{}, s.reports...)
}
