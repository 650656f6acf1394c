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
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/server"
)

// crowdEnv makes the test binary a local user that opens connections and sends nothing. Its value
// is the user ID, the number of connections and the address.
const crowdEnv = "SIKKERGUARD_TEST_CROWD"

// crowd opens connections, prints "open", and holds them until its standard input ends.
func crowd(args string) error {
	var (
		uid, count int
		addr       string
	)
	if _, err := fmt.Sscan(args, &uid, &count, &addr); err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	for range count {
		c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", addr)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
	}
	_, err := os.Stdout.WriteString("open\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return err
}

// openSilent opens n silent connections as another user and returns when they are open. They stay
// open until the end of the test.
func openSilent(t *testing.T, uid, n int, addr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s", crowdEnv, uid, n, addr))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the other user prints %q, %v", line, err)
	}
}

// asRoot skips the test if it cannot become another user.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		nettest.Skip(t, "it needs root")
	}
}

// TestIdleConnections has a local user that opens 3,000 connections and sends nothing. Other users
// still get answers and keep their older connections.
func TestIdleConnections(t *testing.T) {
	asRoot(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		_, port := start(t, &source{})
		addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
		slow, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = slow.Close() }()
		if _, err := io.WriteString(slow, "GET /healthz HTTP/1.1\r\nHost: loc"); err != nil {
			t.Fatal(err)
		}
		openSilent(t, 65534, 1000, addr)
		if _, err := io.WriteString(slow, "alhost\r\n\r\n"); err != nil {
			t.Errorf("%s: an older connection of another user: %v", host, err)
		}
		if res, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: an older connection of another user: %v", host, err)
		} else {
			_ = res.Body.Close()
		}
		openSilent(t, 65534, 2000, addr)
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := server.Healthcheck(ctx, port); err != nil {
				t.Errorf("%s: beside 3,000 idle connections: %v", host, err)
			}
			cancel()
		}
	}
}

// held returns the number of n silent connections that are still open after a wait shorter than the
// header timeout.
func held(t *testing.T, addr string, n int) int {
	t.Helper()
	var conns []net.Conn
	for range n {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		conns = append(conns, c)
	}
	open := 0
	deadline := time.Now().Add(500 * time.Millisecond)
	for _, c := range conns {
		if err := c.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	return open
}

// TestConnectionsAreBounded checks that one user keeps at most 64 of 300 connections, and that a
// connection that sends nothing or only part of a request is closed within seconds.
func TestConnectionsAreBounded(t *testing.T) {
	addr, _ := start(t, &source{})
	if n := held(t, addr, 300); n > 64 || n == 0 {
		t.Errorf("%d of 300 silent connections are kept, want 1 to 64", n)
	}
	for _, text := range []string{
		"", "GET /status HTTP/1.1\r\nHost: ", "GET /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
	} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(8 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a client that sends %q and no more is kept", text)
		}
		_ = c.Close()
	}
}
