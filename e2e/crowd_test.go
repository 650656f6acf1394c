//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// crowd is many clients of the health endpoint at once, most of them misbehaving.
type crowd struct {
	conns []net.Conn
	all   sync.WaitGroup

	mu       sync.Mutex
	answered int
	again    int // requests that were sent again
	errs     []error
}

// maxAttempts is the number of times that a rejected client tries again.
const maxAttempts = 20

// Behaviour of the clients, in turn.
var manners = []struct {
	request string
	want    string // expected in the answer; empty if the answer does not matter
	reads   bool
}{
	{"", "", false},                // sends nothing
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

// crowd N: N clients, a tenth of them with -short, connect to the health endpoint over IPv4 and
// IPv6, and send their requests at once.
func cmdCrowd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	c := &w.crowd
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	if testing.Short() {
		n /= 10
	}
	w.server.Do(func() {
		for i := range n {
			conn, derr := net.Dial("tcp", endpoint(i))
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
		c.all.Go(func() { c.join(w, conn, i) })
	}
}

// endpoint returns the address for client i.
func endpoint(i int) string { return []string{"127.0.0.1:8080", "[::1]:8080"}[i%2] }

// join runs client i. A client that behaves well tries again if it is rejected, as monitoring does:
// on a machine that is busy with other tests the agent may not read its request within the two
// seconds that every client has.
func (c *crowd) join(w *world, conn net.Conn, i int) {
	m := manners[i%len(manners)]
	if m.want == "" {
		misbehave(conn, m.request, m.reads)
		return
	}
	err := ask(conn, m.request, m.want)
	again := 0
	for ; turnedAway(err) && again < maxAttempts; again++ {
		time.Sleep(time.Duration(again) * 100 * time.Millisecond) // a client waits before it tries again
		w.server.Do(func() { conn, err = net.Dial("tcp", endpoint(i)) })
		if err == nil {
			err = errors.Join(ask(conn, m.request, m.want), conn.Close())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered++
	c.again += again
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%q, %d attempts: %w", m.request, again+1, err))
	}
}

// turnedAway reports whether a connection was closed without an answer, or with the answer that the
// kernel does not respond to the agent in time. An emulated processor is that slow.
func turnedAway(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, errSilentKernel) && testing.Short()
}

// errSilentKernel is an answer in which the condition kernel-silent holds.
var errSilentKernel = errors.New("the kernel does not answer the agent in time")

// silentKernel matches that condition in an answer of /healthz, /status or /metrics.
var silentKernel = regexp.MustCompile(`"code": "kernel-silent"|` +
	`\{code="kernel-silent",severity="unprotected"\} 1\n|(?i)the kernel does not answer`)

// misbehave sends an invalid request. If reads is set, it reads until the server closes the
// connection.
func misbehave(conn net.Conn, request string, reads bool) {
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	_, _ = io.WriteString(conn, request)
	if reads {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// ask sends a request and expects a good answer that contains want.
func ask(conn net.Conn, request, want string) error {
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && (res.StatusCode != http.StatusOK ||
		!strings.Contains(string(raw), want)) {
		err = fmt.Errorf("got %d %q, want %q", res.StatusCode, raw, want)
		if silentKernel.Match(raw) {
			err = fmt.Errorf("%w: %w", errSilentKernel, err)
		}
	}
	return err
}

// answered: all clients of the crowd that behaved well got a complete, correct answer.
func cmdAnswered(ts *testscript.TestScript, _ bool, _ []string) {
	c := &of(ts).crowd
	for i, conn := range c.conns { // clients that send and read nothing have no end of their own
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
		ts.Fatalf("%d of %d answers, %d wrong: %v", c.answered, good, len(c.errs),
			errors.Join(c.errs[:min(3, len(c.errs))]...))
	}
	ts.Logf("%d clients, %d of them answered after %d further attempts", len(c.conns), good, c.again)
}
