package apisim

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hugeBytes is the least size of a huge body: more than the 64 MiB that a client accepts.
const hugeBytes = 65 << 20

// Fault is a fault of an answer. It applies before the key is checked. Fields that are not set
// change nothing: a fault with only a delay is a slow, correct answer.
type Fault struct {
	// the endpoint, or a part of it up to a slash, like /v1/key/check; empty for all
	Path       string   `json:"path"`
	Status     int      `json:"status"`     // 0: 200 with a Body, else the true one
	RetryAfter int      `json:"retryAfter"` // seconds, sent with every answer; 0: not sent
	Delay      Duration `json:"delay"`      // before the answer begins, like "2s"
	Hang       bool     `json:"hang"`       // the answer never comes; with Truncate, only the rest of the body
	Truncate   int      `json:"truncate"`   // bytes of the body, as sent, before the connection is closed; 0: all
	// garbage, html, gzip-garbage, huge, empty; "": the true one, or the error of Status
	Body  string `json:"body"`
	Times int    `json:"times"` // number of requests; 0: until it is cleared
}

// Duration is a time.Duration that JSON writes as text, like "2s".
type Duration time.Duration

// MarshalText returns text like "2s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText parses text like "2s".
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// fault is a Fault that is set.
type fault struct {
	Fault

	left     int           // requests, if Times is set
	clearedC chan struct{} // closed when it is cleared or replaced
}

// SetFault sets a fault. It replaces an earlier one of the same path and ends the requests that
// that one holds.
func (s *Sim) SetFault(f Fault) error {
	bodies := []string{"", "garbage", "html", "gzip-garbage", "huge", "empty"}
	switch {
	case f.Path != "" && !strings.HasPrefix(f.Path, "/v1/"):
		return fmt.Errorf("set fault: path %q is not of the API", f.Path)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("set fault: status %d is not from 200 to 599", f.Status)
	case f.RetryAfter < 0 || f.Delay < 0 || f.Truncate < 0 || f.Times < 0:
		return errors.New("set fault: a number is negative")
	case !slices.Contains(bodies, f.Body):
		return fmt.Errorf("set fault: body %q is none of %q", f.Body, bodies[1:])
	case f.Truncate > 0 && f.Body == "huge":
		return errors.New("set fault: a huge body is not made whole, and cannot be truncated")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.faults[f.Path]; old != nil {
		close(old.clearedC)
	}
	s.faults[f.Path] = &fault{Fault: f, left: f.Times, clearedC: make(chan struct{})}
	return nil
}

// ClearFaults clears all faults. Requests that a fault holds end; those that hang get no answer.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		close(f.clearedC)
	}
	clear(s.faults)
}

// takeFault returns the nearest fault for a path and counts it down, or nil if there is none.
func (s *Sim) takeFault(path string) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := path; ; p = p[:max(0, strings.LastIndexByte(p, '/'))] {
		f := s.faults[p]
		switch {
		case f != nil && (f.Times == 0 || f.left > 0):
			f.left-- // no effect if Times is 0
			return f
		case p == "":
			return nil
		}
	}
}

// serve answers a request with the fault. right returns the true answer.
func (f *fault) serve(w http.ResponseWriter, r *http.Request, right func() answer) {
	timer := time.NewTimer(time.Duration(f.Delay))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.clearedC:
	case <-r.Context().Done():
		return
	}
	if f.Hang && f.Truncate == 0 {
		f.wait(r)
		panic(http.ErrAbortHandler) // closes the connection and logs nothing
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	if f.Body == "huge" {
		f.huge(w, r)
		return
	}
	a := f.answer(right)
	if f.Truncate == 0 {
		send(w, r, a)
		return
	}
	body := prepare(w, r, a)
	_, _ = w.Write(body[:min(len(body), f.Truncate)]) // a client that has gone needs no answer
	_ = http.NewResponseController(w).Flush()
	if f.Hang {
		f.wait(r)
	}
	if len(body) > f.Truncate {
		panic(http.ErrAbortHandler)
	}
}

// wait waits until the client leaves or the fault is cleared.
func (f *fault) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-f.clearedC:
	}
}

// answer returns the wrong answer.
func (f *fault) answer(right func() answer) answer {
	a := answer{status: http.StatusOK, kind: "text/plain; charset=utf-8"}
	switch f.Body {
	case "garbage":
		a.body = garbage(4096)
	case "html":
		a.kind = "text/html; charset=utf-8"
		a.body = []byte("<!DOCTYPE html>\n<html>\n<head><title>Sign in</title></head>\n" +
			"<body>\n<h1>Sign in to this network</h1>\n<p>10.0.0.1</p>\n</body>\n</html>\n")
	case "gzip-garbage":
		// The header is valid, so that the client finds the fault in the middle.
		a.header = http.Header{"Content-Encoding": {"gzip"}}
		a.body = append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, bytes.Repeat([]byte{0xff}, 256)...)
	case "empty":
	default:
		if f.Status == 0 {
			return right()
		}
		a = refuse(f.Status, "simulated fault")
	}
	if f.Status != 0 {
		a.status = f.Status
	}
	return a
}

// garbage returns the same bytes each time, with some line ends. It contains no address, blank or
// comment.
func garbage(n int) []byte {
	raw := make([]byte, n)
	x := uint32(1)
	for i := range raw {
		x = x*1664525 + 1013904223 // a linear congruential generator
		raw[i] = 0x80 | byte(x>>24)
		if i%40 == 39 {
			raw[i] = '\n'
		}
	}
	return raw
}

// huge sends valid lines until the body is longer than any client accepts. It repeats 256 lines, so
// that a client spends its time on the limit and not on decompression. One part is compressed once,
// because gzip files may follow each other.
func (f *fault) huge(w http.ResponseWriter, r *http.Request) {
	const lines = 1 << 16
	var part []byte
	for i := range lines {
		part = fmt.Appendf(part, "198.51.100.%d\n", i&0xff)
	}
	size := len(part)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		part = compress(part)
	}
	w.WriteHeader(max(f.Status, http.StatusOK))
	for sent := 0; sent < hugeBytes; sent += size {
		if _, err := w.Write(part); err != nil {
			return // the client closed the connection, as it should
		}
	}
}
