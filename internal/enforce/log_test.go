package enforce

import (
	"io"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/feed"
)

// TestEntryIsCountedOnce: a network with an allowlisted address in it is blocked in many parts. The
// log, the status, the metrics, the service manager and the outcome of a pull count it as one
// entry, also after a restart, and so does the guard that compares the next list with it.
func TestEntryIsCountedOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, "203.0.113.0/24\n198.51.100.7\n192.0.0.0/8\n2001:db8::/32\n")
	allowlisted := func() {
		l.a.surveys.publish(survey{allow: listOf("203.0.113.9/32", "2001:db8::9/128")})
	}
	check := func(when string) {
		t.Helper()
		if n := l.logs.FilterMessage("Blocking 4 IPs").Len(); n != 1 {
			t.Errorf("%s: the log has it %d times: %v", when, n, l.logs.All())
		}
		if s := l.a.o.Board.Status(); s.BlockedIPs != 4 || s.Blocked4 != 3 || s.Blocked6 != 1 {
			t.Errorf("%s: the status has %d, %d and %d", when, s.BlockedIPs, s.Blocked4, s.Blocked6)
		}
		families, err := l.a.o.Board.Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		enforced := 0.0
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "sikkerguard_enforced_entries" {
					enforced += m.GetGauge().GetValue()
				}
			}
		}
		if enforced != 4 {
			t.Errorf("%s: the metrics have %v", when, enforced)
		}
		if line := l.a.o.Board.Line(); !strings.HasPrefix(line, "Blocking 4 IPs") {
			t.Errorf("%s: the service manager receives %q", when, line)
		}
		if l.a.sikker().baseline != 4 {
			t.Errorf("%s: the next list is compared with %d entries", when, l.a.sikker().baseline)
		}
		if l.kernel.listOf("203.0.113.9") || !l.kernel.listOf("203.0.113.8") || l.kernel.listOf("192.168.1.1") ||
			!l.kernel.listOf("192.1.1.1") {
			t.Errorf("%s: the kernel has %v", when, l.kernel.rules.Block.Prefixes())
		}
	}
	allowlisted()
	l.want(false, true, "Blocking 4 IPs")
	check("after a pull")
	l.restart()
	allowlisted()
	l.a.reconcile(t.Context(), "changed")
	if n := l.a.o.Board.Status().BlockedIPs; n != 4 {
		t.Errorf("after a restart the status has %d", n)
	}
	var body []byte
	c, err := l.a.sikker().saved.Load(func(_ feed.Copy, r io.Reader) { body, _ = io.ReadAll(r) })
	if err != nil || c.Entries != 4 || !strings.Contains(string(body), "192.0.0.0/8\n") {
		t.Errorf("saved: %d entries, %v: %s", c.Entries, err, body)
	}
}

// TestBlockingIsLoggedOncePerChange: a pull that returns the active list, such as the first one
// after a start with the saved list, logs no second "Blocking N IPs".
func TestBlockingIsLoggedOncePerChange(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	wantLogged := func(when string, want int) {
		t.Helper()
		if n := l.logs.FilterMessageSnippet("Blocking").Len(); n != want {
			t.Errorf("%s: logged %d times, want %d: %v", when, n, want, l.logs.All())
		}
	}
	l.want(false, true, "Blocking 4 IPs")
	wantLogged("the first pull", 1)
	l.restart()
	wantLogged("the saved list", 1)
	l.want(false, true, "Blocking 4 IPs")
	wantLogged("a pull of the same list", 1)
	l.list = hosts("203.0", 5)
	l.want(false, true, "Blocking 5 IPs")
	wantLogged("another list", 2)
	l.a.surveys.publish(survey{allow: blocklist.New(parsed(t, "203.0.0.3/32"))})
	l.a.reconcile(t.Context(), "the allowlist changed")
	wantLogged("another allowlist", 3)
	l.a.surveys.publish(survey{allow: blocklist.New(parsed(t, "203.0.0.3/32"))})
	l.want(false, true, "Blocking 4 IPs")
	wantLogged("the same again", 3)
	l.status = 503
	l.want(false, false, "Still blocking 4 IPs")
	l.status = 0
	wantLogged("an outage", 3)
	l.want(false, true, "Blocking 4 IPs")
	wantLogged("the same after an outage", 4)
	if n := l.logs.FilterMessage("The pulled list is already active").Len(); n != 2 {
		t.Errorf("the unchanged list is logged %d times", n)
	}
}
