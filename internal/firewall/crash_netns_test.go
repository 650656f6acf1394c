package firewall

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// childEnv makes the test process an agent that a test kills. Its value is the backend.
const childEnv = "SIKKERGUARD_TEST_KILL"

// TestKilled is the agent that TestCrash kills. Without childEnv it does nothing.
func TestKilled(t *testing.T) {
	at := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == os.Getenv(childEnv) })
	if at < 0 {
		t.Skip("only for a child process of TestCrash")
	}
	fw, err := kinds()[at].open(true)
	if err != nil {
		t.Fatal(err)
	}
	report := func(s string) { _, _ = os.Stdout.WriteString(s + "\n") }
	report("opened")
	for i := uint64(0); ; i++ {
		ps := slices.Concat(list("203.0.113.9", "2001:db8:f::1").Prefixes(), random(2000, i))
		rs := wanted(blocklist.New(ps), list("10.0.0.0/8", fmt.Sprintf("192.0.2.%d", i%200)))
		if _, err := fw.Apply(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		report("applied")
	}
}

// kill starts an agent, waits until its output contains until, sleeps for delay, and kills it.
func (h *host) kill(until string, delay time.Duration) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), childEnv+"="+h.name)
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	cmd.Stdout, cmd.Stderr = w, w
	if err := h.Start(cmd); err != nil {
		h.t.Fatal(err)
	}
	_ = w.Close()
	var out []byte
	for buf := make([]byte, 1024); !strings.Contains(string(out), until); {
		n, err := r.Read(buf)
		if out = append(out, buf[:n]...); err != nil {
			h.t.Fatalf("the agent ended: %s", out)
		}
	}
	time.Sleep(delay) // at any moment of its work
	if err := cmd.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

// TestCrash kills an agent of each kind at fifteen moments, four with -short. The active rules
// stay, the next agent adopts them without a gap, and after it has removed them nothing is left.
func TestCrash(t *testing.T) {
	each(t, func(h *host) {
		t := h.t
		before := h.snapshot()
		var last ruleset.Counters
		times := 15
		if testing.Short() {
			times = 4
		}
		for i := range times {
			until := "applied"
			if i%3 == 0 {
				until = "opened"
			}
			h.kill(until, time.Duration(i)*14*time.Millisecond)
			if until == "applied" {
				h.Check("killed", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("9.9.9.9"))
			}
			h.start()
			always := nettest.Addrs("203.0.113.9", "2001:db8:f::1")
			if until != "applied" {
				h.apply(list("203.0.113.9", "2001:db8:f::1"), list())
			}
			h.Under(always, nil, func() {
				h.apply(list("203.0.113.9", "2001:db8:f::1", "5.6.7.8"), list("192.0.2.50"))
			})
			h.Check("adopted", nettest.Addrs("203.0.113.9", "2001:db8:f::1", "5.6.7.8"), nettest.Addrs("50.1.2.3"))
			h.noLeftovers("adopted")
			if n := h.counters(); i%2 == 0 {
				if n.Packets4 < last.Packets4 {
					t.Errorf("counters went back from %+v to %+v", last, n)
				}
				h.remove()
				h.same("removed", before)
				last = ruleset.Counters{}
			} else {
				last = n
			}
			if err := h.fw.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
