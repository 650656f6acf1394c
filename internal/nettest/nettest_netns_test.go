package nettest_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestPackets checks that packets of a Sender arrive from any source, so that a missing packet in
// another test means a firewall drop.
func TestPackets(t *testing.T) {
	t.Parallel()
	server, attacker := nettest.New(t), nettest.New(t)
	nettest.Link(server, attacker, "sg0",
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	server.DefaultRoute("sg0")
	r := nettest.Listen(t, server, 9)
	s := nettest.NewSender(t, attacker, server, "sg0")
	for _, tt := range []struct{ src, dst string }{
		{"203.0.113.7:4000", "192.0.2.1:9"},
		{"[2001:db8:ffff::7]:4000", "[2001:db8::1]:9"},
	} {
		src, dst := netip.MustParseAddrPort(tt.src), netip.MustParseAddrPort(tt.dst)
		// The kernel adds the IPv6 routes some time after the link comes up.
		for end := time.Now().Add(10 * time.Second); ; {
			s.UDP(src, dst, "from "+tt.src)
			if r.Await("from "+tt.src, 100*time.Millisecond) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("datagram from %s did not arrive", tt.src)
			}
		}
		if r.Received(src.Addr()) == 0 {
			t.Errorf("no datagram from %s is counted", tt.src)
		}
	}
}

// TestStartEndsWithTest kills a process that has started another one in a namespace. The kernel
// also kills that one, so no namespace outlives its test.
func TestStartEndsWithTest(t *testing.T) {
	t.Parallel()
	const insideEnv = "SIKKERGUARD_TEST_STARTER"
	if os.Getenv(insideEnv) != "" {
		cmd := exec.CommandContext(t.Context(), "sleep", "600")
		if err := nettest.New(t).Start(cmd); err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintln(os.Stdout, "started", cmd.Process.Pid)
		_ = cmd.Wait()
		return
	}
	nettest.New(t) // skips, or fails, without root
	starter := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStartEndsWithTest$")
	starter.Env = append(os.Environ(), insideEnv+"=1")
	out, err := starter.StdoutPipe()
	if err == nil {
		err = starter.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "started ")
	if err != nil || !ok {
		t.Fatalf("the starter prints %q (%v)", line, err)
	}
	_ = starter.Process.Kill()
	_ = starter.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil || strings.TrimSpace(string(name)) != "sleep" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %s is still running", pid)
		}
	}
}

// TestRerunFailsOnASkip has Rerun start a test that is skipped in the new process, whose exit code
// is 0.
func TestRerunFailsOnASkip(t *testing.T) {
	const outerEnv = "SIKKERGUARD_TEST_RERUN"
	switch {
	case nettest.Inside():
		t.Skip("as a test that lacks something")
	case os.Getenv(outerEnv) != "":
		nettest.New(t).Rerun(t)
		return
	}
	t.Parallel()
	nettest.New(t) // skips, or fails, without root
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), outerEnv+"=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "it did not run, or was skipped") {
		t.Errorf("got %v\n%s", err, out)
	}
}
