//go:build e2e_soak

package soak

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// poll is one request for the status of the agent.
type poll struct {
	asked, answered time.Time
	state, reason   string // empty if there was no answer
}

// protects reports whether the agent says that the list is active.
func (p poll) protects() bool { return p.state == "active" || p.state == "degraded" }

// watch requests the status all the time.
type watch struct {
	s      *soak
	client *http.Client
	stopC  chan struct{}
	doneC  chan struct{}

	mu    sync.Mutex
	polls []poll
}

func newWatch(s *soak) *watch {
	w := &watch{s: s, stopC: make(chan struct{}), doneC: make(chan struct{})}
	w.client = &http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{DialContext: func(
			ctx context.Context, network, addr string,
		) (c net.Conn, err error) {
			s.host.server.Do(func() { c, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
			return c, err
		}},
	}
	go w.run()
	return w
}

func (w *watch) run() {
	defer close(w.doneC)
	var since time.Time // start of the time in which it is not active
	for {
		select {
		case <-w.stopC:
			return
		case <-time.After(50 * time.Millisecond):
		}
		p := w.ask()
		w.mu.Lock()
		var before poll
		if n := len(w.polls); n > 0 {
			before = w.polls[n-1]
		}
		w.polls = append(w.polls, p)
		w.polls = w.polls[max(0, len(w.polls)-5000):]
		w.mu.Unlock()
		if p.state != before.state {
			w.s.note("  status: %s %s", cmpOr(p.state, "no answer"), p.reason)
		}
		if away := p.asked.Sub(before.asked); p.state != "active" && len(w.polls) > 1 {
			w.s.blame(p.asked, func(y *tally) { y.away += away })
		}
		// The agent must log every state other than active.
		switch {
		case p.state != "degraded" && p.state != "unprotected":
			if from := since; !from.IsZero() {
				to := p.asked
				w.s.later(func() {
					if !w.s.agent.logged(from.Add(-5*time.Second), to.Add(15*time.Second)) {
						w.s.breaks(from, "the log does not report %v in which the agent was not active",
							to.Sub(from).Round(time.Millisecond))
					}
				})
			}
			since = time.Time{}
		case since.IsZero():
			since = p.asked
		}
	}
}

func (w *watch) stop() {
	close(w.stopC)
	<-w.doneC
}

func (w *watch) ask() poll {
	p := poll{asked: time.Now()}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:8080/status", nil)
	if err != nil {
		return p
	}
	res, err := w.client.Do(req)
	if err != nil {
		p.answered = time.Now()
		return p
	}
	defer func() { _ = res.Body.Close() }()
	var status struct{ Status, Reason string }
	if err := json.NewDecoder(res.Body).Decode(&status); err == nil {
		p.state, p.reason = status.Status, status.Reason
	}
	p.answered = time.Now()
	return p
}

// newest returns the last answer.
func (w *watch) newest() poll {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.polls) == 0 {
		return poll{}
	}
	return w.polls[len(w.polls)-1]
}

// protects reports whether the agent said before and after a time that the list is active.
func (w *watch) protects(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	// The last poll answered before, and the first one sent after it.
	i := slices.IndexFunc(w.polls, func(p poll) bool { return p.answered.After(at) })
	if i <= 0 {
		return false
	}
	j := slices.IndexFunc(w.polls, func(p poll) bool { return p.asked.After(at) })
	return j > 0 && w.polls[i-1].protects() && w.polls[j].protects()
}
