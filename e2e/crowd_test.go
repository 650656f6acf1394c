//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// crowd is many clients of the health endpoint at once, most of them bad ones.
type crowd struct {
	conns []net.Conn
	all   sync.WaitGroup

	mu       sync.Mutex
	answered int
	errs     []error
}

// What the clients do, in turn.
var manners = []struct {
	request string
	want    string // in the answer; empty: what comes does not matter
	reads   bool
}{
	{"", "", false},                // says nothing
	{"GET /metrics HT", "", false}, // never ends its request
	{"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "", false}, // reads nothing
	{"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "", true},
	{"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "", true},
	{"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 1<<16) + "\r\n\r\n", "", true},
	{"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", "", true},
	{"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "OK\n", true},
	{"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n", `"status": "active"`, true},
	{"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "sikkerguard_healthy 1\n", true},
	{"GET /status HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n", "sikkerguard_healthy 1\n", true},
}

// crowd N: N clients connect to the health endpoint, over IPv4 and IPv6, and ask at once.
func cmdCrowd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	c := &w.crowd
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	w.server.Do(func() {
		for i := range n {
			conn, derr := net.Dial("tcp", []string{"127.0.0.1:8080", "[::1]:8080"}[i%2])
			if derr != nil {
				err = fmt.Errorf("client %d: %w", i, derr)
				return
			}
			c.conns = append(c.conns, conn)
		}
	})
	ts.Check(err)
	ts.Defer(func() {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.all.Wait()
	})
	for i, conn := range c.conns {
		c.all.Go(func() { c.ask(conn, i%len(manners)) })
	}
}

// ask behaves in one of the manners, until the server has had enough.
func (c *crowd) ask(conn net.Conn, manner int) {
	m := manners[manner]
	err := conn.SetDeadline(time.Now().Add(2 * patience))
	if _, werr := io.WriteString(conn, m.request); m.want != "" {
		err = errors.Join(err, werr)
	}
	if !m.reads {
		return
	}
	if m.want == "" {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	res, rerr := http.ReadResponse(bufio.NewReader(conn), nil)
	if err = errors.Join(err, rerr); err == nil {
		var raw []byte
		raw, err = io.ReadAll(res.Body)
		err = errors.Join(err, res.Body.Close())
		if err == nil && (res.StatusCode != http.StatusOK || !strings.Contains(string(raw), m.want)) {
			err = fmt.Errorf("got %d %q, want %q", res.StatusCode, raw, m.want)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered++
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%q: %w", m.request, err))
	}
}

// answered: every client of the crowd that behaved well was answered, whole and rightly.
func cmdAnswered(ts *testscript.TestScript, _ bool, _ []string) {
	c := &of(ts).crowd
	for i, conn := range c.conns { // those that say and read nothing have no end of their own
		if m := manners[i%len(manners)]; !m.reads {
			_ = conn.Close()
		}
	}
	c.all.Wait()
	good := 0
	for i := range c.conns {
		if manners[i%len(manners)].want != "" {
			good++
		}
	}
	if len(c.errs) > 0 || c.answered != good {
		ts.Fatalf("%d of %d answers, %d wrong: %v", c.answered, good, len(c.errs), errors.Join(c.errs[:min(3, len(c.errs))]...))
	}
	ts.Logf("%d clients, %d of them answered", len(c.conns), good)
}
