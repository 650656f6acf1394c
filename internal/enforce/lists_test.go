package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// toyKernel is a kernel that keeps what it was told, or refuses it.
type toyKernel struct {
	firewall.Backend

	err   error // for all rules but the active ones
	rules ruleset.Ruleset
}

func (m *toyKernel) Apply(_ context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	if m.err != nil && !rs.Block.Equal(m.rules.Block) {
		return ruleset.Evidence{}, m.err
	}
	m.rules = rs
	return m.Verify()
}

func (m *toyKernel) Verify() (ruleset.Evidence, error) {
	return ruleset.Evidence{Entries4: m.rules.Block.Len4(), Entries6: m.rules.Block.Len6()}, nil
}

func (m *toyKernel) Remove() error                     { m.rules = ruleset.Ruleset{}; return nil }
func (*toyKernel) Disarm() error                       { return nil }
func (*toyKernel) Present() error                      { return nil }
func (*toyKernel) Counters() (ruleset.Counters, error) { return ruleset.Counters{}, nil }
func (*toyKernel) Info() ruleset.Info                  { return ruleset.Info{} }
func (m *toyKernel) listOf(addr string) bool {
	return m.rules.Block.Contains(netip.MustParseAddr(addr))
}

// lab is an API, a kernel in memory and an agent between them whose turns the test makes.
type lab struct {
	t      *testing.T
	dir    string
	url    string
	list   string // what the API gives
	cut    int    // bytes of it, before the connection breaks; 0 for all
	status int    // of its answers; 0 for 200
	quota  int    // what it says of the quota; 0 for nothing
	pulls  int    // that it was asked for

	refusing error // of the kernel, after a restart
	kernel   *toyKernel
	a        *Enforcer
	logs     *zapobserver.ObservedLogs
	wait     time.Duration // for the next pull
}

func newLab(t *testing.T, list string) *lab {
	t.Helper()
	l := &lab{t: t, dir: filepath.Join(t.TempDir(), "state"), list: list}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		l.pulls++
		if l.quota > 0 {
			w.Header().Set("X-Daily-Limit", strconv.Itoa(l.quota))
			w.Header().Set("X-Daily-Remaining", strconv.Itoa(max(0, l.quota-l.pulls)))
		}
		if l.status != 0 {
			w.WriteHeader(l.status)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(l.list)))
		body := l.list
		if l.cut > 0 {
			body = body[:l.cut]
		}
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { settle(l.a) }) // they write to a directory that is removed
	l.url = srv.URL
	l.restart()
	return l
}

// restart makes another agent of the same state directory, as after a kill. vars are settings that
// it has changed.
func (l *lab) restart(vars ...string) {
	l.t.Helper()
	if l.a != nil {
		settle(l.a)
	}
	l.a, l.logs = logged(l.t, append([]string{"SIKKER_API_URL=" + l.url, "SIKKER_STATE_DIR=" + l.dir}, vars...)...)
	l.kernel = &toyKernel{err: l.refusing}
	l.a.backend.fw, l.a.o.Host = l.kernel, host.New(host.Options{Root: l.t.TempDir()})
	l.a.surveys.publish(survey{})
	close(l.a.surveys.next) // no survey is waited for
	l.a.restore(l.t.Context())
	l.a.restoreRefused(l.a.sikker())
}

// pull makes a turn as the loop does.
func (l *lab) pull(accept bool) Outcome {
	l.t.Helper()
	doneC := make(chan Outcome, 1)
	t := turn{remote: l.a.sikker(), order: order{accept: accept, askers: []chan<- Outcome{doneC}}}
	t.verdict, t.err = fetch(l.t.Context(), l.a.sikker().feed, l.a.sikker().vetOptions())
	l.wait = l.a.refresh(l.t.Context(), t)
	return <-doneC
}

// want pulls and compares what came of it.
func (l *lab) want(accept, ok bool, text string) {
	l.t.Helper()
	if o := l.pull(accept); o.OK != ok || !strings.Contains(o.Text, text) {
		l.t.Errorf("pull, accept %v: got %v %q, want %v %q", accept, o.OK, o.Text, ok, text)
	}
}

func (l *lab) conditions() []status.Code {
	var codes []status.Code
	for _, c := range l.a.o.Board.Latest().Conditions {
		codes = append(codes, c.Code)
	}
	return codes
}

func (l *lab) wantConditions(want ...status.Code) {
	l.t.Helper()
	if got := l.conditions(); fmt.Sprint(got) != fmt.Sprint(want) {
		l.t.Errorf("conditions: got %v, want %v", got, want)
	}
}

// hosts is a list of n addresses of a /16.
func hosts(net string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s.%d.%d\n", net, i>>8, i&0xff)
	}
	return b.String()
}

// TestNoSizeIsRefusedForEver: a list that shrank and comes back is taken at once, and one that
// grows for good when another pull confirms it, over restarts too.
func TestNoSizeIsRefusedForEver(t *testing.T) {
	t.Parallel()
	for _, restarts := range []bool{false, true} {
		l := newLab(t, hosts("203.0", 5000))
		step := func(n int, ok bool, text string) {
			t.Helper()
			if restarts {
				l.restart()
			}
			l.list = hosts("203.0", n)
			l.want(false, ok, text)
		}
		step(5000, true, "Blocking 5000 IPs")
		step(20, false, "shrink guard")
		step(20, true, "Blocking 20 IPs")
		step(5000, true, "Blocking 5000 IPs")
		step(20000, false, "growth guard")
		l.wantConditions(status.CondRefused)
		step(19990, true, "Blocking 19990 IPs")
		l.wantConditions()
	}
}

// TestAnotherSizeConfirmsNothing: a list that is much smaller is confirmed by the next pull, not by
// one after a list that was refused for being much larger.
func TestAnotherSizeConfirmsNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	for range 2 {
		l.list = hosts("203.0", 20)
		l.want(false, false, "shrink guard")
		l.list = hosts("203.0", 20000)
		l.want(false, false, "growth guard")
	}
}

// TestGuardsMeasureAgainstTheKeptList: the first pull after a restart is measured against the list
// of the run before, and with another score against nothing.
func TestGuardsMeasureAgainstTheKeptList(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 10))
	l.want(false, true, "Blocking 10 IPs")
	l.restart()
	l.list = hosts("203.0", 21)
	l.want(false, false, "21 entries, 10 before")
	l.restart()
	l.list = hosts("203.0", 4)
	l.want(false, false, "4 entries, 10 before")
	l.list = hosts("203.0", 1000)
	for _, change := range []string{"SIKKER_SCORE_MIN=60", "SIKKER_API_KEY=sk_test_rotated"} {
		l.restart(change)
		l.wantConditions()
		if kept := l.kernel.listOf("203.0.0.1"); kept != (change == "SIKKER_API_KEY=sk_test_rotated") {
			t.Errorf("%s: the saved list is active before the pull: %v", change, kept)
		}
		l.want(false, true, "Blocking 1000 IPs")
		l.restart() // back: the saved list is of the other request
		l.want(false, true, "Blocking 1000 IPs")
	}
}

// TestAcceptEnforcesTheListThatWasShown: --accept enforces the list that was refused, whatever the
// API gives at that moment, after a restart too; but nothing if that is no list at all.
func TestAcceptEnforcesTheListThatWasShown(t *testing.T) {
	t.Parallel()
	shown := hosts("203.0", 9)
	for name, tt := range map[string]struct {
		now     string // what the API gives when the operator accepts
		status  int
		restart bool
		ok      bool
		text    string
		blocks  string // an address that is blocked then
	}{
		"OK the same list":                      {now: shown, ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"OK the same list, after a restart":     {now: shown, restart: true, ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"OK another list that would be refused": {now: hosts("198.51", 9000), ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"OK that, after a restart":              {now: hosts("198.51", 9000), restart: true, ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"OK another list that passes":           {now: hosts("198.51", 5), ok: true, text: "Blocking 5 IPs", blocks: "198.51.0.4"},
		"OK nothing, because the API is down":   {status: 503, ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"bad no list":                           {now: "no list\n", text: "this is not a list", blocks: "192.1.0.77"},
		"bad a list of the Internet":            {now: "0.0.0.0/0\n", text: "cannot be accepted", blocks: "192.1.0.77"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "192.1.0.77\n203.0.0.1\n203.0.0.2\n203.0.0.3\n")
			l.want(false, true, "Blocking 4 IPs")
			l.list = shown
			l.want(false, false, "it is kept aside as list ")
			l.wantConditions(status.CondRefused)
			if tt.restart {
				l.restart()
				l.wantConditions(status.CondRefused)
			}
			l.list, l.status = tt.now, tt.status
			l.want(true, tt.ok, tt.text)
			if !l.kernel.listOf(tt.blocks) || l.kernel.listOf("198.51.9.9") || l.kernel.listOf("8.8.8.8") {
				t.Errorf("active: %d entries", l.kernel.rules.Block.Len())
			}
			settle(l.a)
			if _, err := os.Stat(filepath.Join(l.dir, "blacklist.refused.txt")); tt.ok != errors.Is(err, os.ErrNotExist) {
				t.Errorf("the refused list on the disk: %v", err)
			}
			if !tt.ok {
				l.wantConditions(status.CondRefused)
				return
			}
			l.wantConditions()
			l.status = 0
			l.list = shown
			if tt.blocks == "203.0.0.8" { // it is not refused again
				l.want(false, true, "Blocking 9 IPs")
			}
		})
	}
}

// moody is a kernel that gives its errors, one for each change, and holds nothing of ours after
// one.
type moody struct {
	*toyKernel

	errs []error
}

func (m *moody) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	if len(m.errs) == 0 {
		return m.toyKernel.Apply(ctx, rs)
	}
	err := m.errs[0]
	m.errs, m.rules = m.errs[1:], ruleset.Ruleset{}
	return ruleset.Evidence{}, err
}

// TestARollbackThatFailsIsRepaired: if the kernel holds something else than it was told and does
// not take the list of before either, that list is put back as soon as it does.
func TestARollbackThatFailsIsRepaired(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	l.a.backend.fw = &moody{l.kernel, []error{firewall.ErrMismatch, errors.New("no buffer space available")}}
	l.list = hosts("203.0", 6)
	l.want(false, false, "roll back: no buffer space available")
	select {
	case <-l.a.repair.due():
		l.a.repairRules(t.Context())
	case <-time.After(30 * time.Second):
		t.Fatal("nothing puts the list back")
	}
	if !l.kernel.listOf("203.0.0.3") || l.kernel.listOf("203.0.0.5") {
		t.Errorf("the kernel has %v", l.kernel.rules.Block)
	}
}

// TestNoRequestIsLostDuringAPull: a SIGHUP and requests that come while a pull is under way are
// served by one pull after it, which accepts a list if one of them does. Each asker gets an answer.
func TestNoRequestIsLostDuringAPull(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	e := l.a
	e.loop.turnC = make(chan turn) // a pull is under way until next takes its result
	next := func() order {
		t.Helper()
		select {
		case n := <-e.loop.turnC:
			l.a.refresh(t.Context(), n)
			l.a.end(t.Context(), l.a.sikker())
			return n.order
		case <-time.After(time.Minute):
			t.Fatal("no pull was made")
			return order{}
		}
	}
	one, two := make(chan Outcome, 1), make(chan Outcome, 1)
	l.a.begin(t.Context(), l.a.sikker(), order{})
	l.a.begin(t.Context(), l.a.sikker(), order{})
	next()
	l.a.begin(t.Context(), l.a.sikker(), order{accept: true, askers: []chan<- Outcome{one}})
	l.a.begin(t.Context(), l.a.sikker(), order{askers: []chan<- Outcome{two}})
	if o := next(); o.accept || len(o.askers) > 0 {
		t.Errorf("the pull of the SIGHUP serves %+v, which came later", o)
	}
	if o := next(); !o.accept || len(one) != 1 || len(two) != 1 {
		t.Errorf("accept %v; %d and %d answers, want true, 1 and 1", o.accept, len(one), len(two))
	}
	if e.sikker().busy || l.pulls != 3 {
		t.Errorf("%d pulls were made, want 3; another one is under way: %v", l.pulls, e.sikker().busy)
	}
}

// TestNothingToAccept: without a list that was refused and shown, --accept judges the one that
// comes.
func TestNothingToAccept(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(true, true, "Blocking 4 IPs")
	l.list = "62.0.0.0/7\n203.0.0.1\n203.0.0.2\n"
	l.want(true, false, "width guard")
	if l.kernel.listOf("62.1.2.3") {
		t.Error("a list that was never shown is enforced")
	}
	l.want(true, true, "Blocking 3 IPs")
	l.want(false, true, "Blocking 3 IPs") // one equal to the list that was accepted is not refused again
	for _, vast := range []string{"0.0.0.0/0\n", "0.0.0.0/1\n128.0.0.0/1\n", "::/0\n"} {
		l.list = vast
		for range 2 {
			if o := l.pull(true); o.OK || strings.Contains(o.Text, "--accept") || !l.kernel.listOf("62.1.2.3") || l.kernel.listOf("8.8.8.8") {
				t.Errorf("%q: %+v", vast, o)
			}
		}
	}
}

// TestAKernelFailureTakesNoPull: the list at hand is tried again until the kernel takes it, and
// then kept; the API is not asked.
func TestAKernelFailureTakesNoPull(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	for name, refusal := range map[string]error{"refuses": errors.New("no buffer space available"), "answers wrongly": firewall.ErrMismatch} {
		l.list = hosts("203.0", 4)
		l.want(false, true, "Blocking 4 IPs")
		l.list, l.kernel.err = hosts("203.0", 5), refusal
		l.want(false, false, refusal.Error())
		l.wantConditions(status.CondKernel)
		if l.wait != l.a.o.PullInterval {
			t.Errorf("%s: the next pull comes after %v", name, l.wait)
		}
		pulls := l.pulls
		select {
		case <-l.a.attempts.retry.DueC():
		case <-time.After(time.Minute):
			t.Fatalf("%s: the list at hand is not tried again", name)
		}
		l.a.retryApply(t.Context())
		l.wantConditions(status.CondKernel)
		l.kernel.err = nil
		l.a.retryApply(t.Context())
		if s := l.a.o.Board.Latest(); s.State != status.StateActive || s.BlockedIPs != 5 || l.pulls != pulls {
			t.Errorf("%s: %s, blocking %d, %d more pulls", name, s.State, s.BlockedIPs, l.pulls-pulls)
		}
		l.wantConditions()
		settle(l.a)
		if c, err := l.a.sikker().saved.Load(); err != nil || c.Entries != 5 {
			t.Errorf("%s: kept: %d entries, %v", name, c.Entries, err)
		}
		if l.a.attempts.retry.DueC() != nil {
			t.Errorf("%s: it is tried again although it is active", name)
		}
	}
}

// TestTheKeptListIsTriedAgain: a kernel that refuses the saved list at the start takes it later,
// without the API.
func TestTheKeptListIsTriedAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	l.refusing = errors.New("no buffer space available")
	l.restart()
	if l.a.active.rules != nil || l.a.attempts.retry.DueC() == nil {
		t.Fatal("the kernel took it, or it is not tried again")
	}
	l.status = http.StatusServiceUnavailable
	l.kernel.err = nil
	l.a.retryApply(t.Context())
	if s := l.a.o.Board.Latest(); s.BlockedIPs != 4 || !s.Kept || s.State != status.StateActive {
		t.Errorf("%s, blocking %d, kept %v", s.State, s.BlockedIPs, s.Kept)
	}
}

// TestDownloadsAreSpreadOverTheQuota: whatever is wrong with the lists of a day, the quota of the
// free tier lasts for it.
func TestDownloadsAreSpreadOverTheQuota(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*lab){
		"cut short":         func(l *lab) { l.cut = 10 },
		"refused":           func(l *lab) { l.list = "62.0.0.0/7\n" },
		"no list":           func(l *lab) { l.list = "no list\n" },
		"kernel refuses":    func(l *lab) { l.kernel.err = errors.New("no buffer space available") },
		"grows and shrinks": func(l *lab) { l.list = hosts("203.0", 1+5000*(l.pulls%2)) },
	} {
		for _, quota := range []int{0, 24} {
			for _, first := range []bool{true, false} {
				l := newLab(t, hosts("203.0", 4))
				if !first {
					l.want(false, true, "Blocking 4 IPs")
				}
				l.quota, l.pulls = quota, 0
				for total := time.Duration(0); total < 24*time.Hour; total += l.wait {
					spoil(l)
					l.pull(false)
					if !first && l.wait < retryRefused && l.pulls > 1 {
						t.Errorf("%s, quota %d: pull %d is followed by another in %v", name, quota, l.pulls, l.wait)
					}
				}
				if l.pulls > 24 {
					t.Errorf("%s, quota %d, first %v: %d downloads in a day", name, quota, first, l.pulls)
				}
			}
		}
	}
}

// TestACutListIsTriedSoonWhileNothingIsInForce: the quota is there to be used when the host has no
// protection.
func TestACutListIsTriedSoonWhileNothingIsInForce(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.quota, l.cut = 24, 10
	if l.want(false, false, "Not blocking anything"); l.wait > 10*time.Second {
		t.Errorf("the next pull comes after %v", l.wait)
	}
	l.cut = 0
	l.want(false, true, "Blocking 4 IPs")
	l.cut = 10
	if l.want(false, false, "Still blocking 4 IPs"); l.wait < 30*time.Minute {
		t.Errorf("while a list is active, the next pull comes after %v", l.wait)
	}
}

// TestAPageInPlaceOfAListIsTriedSoon: a portal's page with status 200 is no list that a guard
// refuses.
func TestAPageInPlaceOfAListIsTriedSoon(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"<html>\n", `{"error": "maintenance"}`} {
		l := newLab(t, page)
		for range 3 {
			if l.want(false, false, "the answer is not a list"); l.wait > time.Minute {
				t.Errorf("the next pull comes after %v", l.wait)
			}
		}
		l.wantConditions(status.CondRefresh)
		l.list = hosts("203.0", 4)
		l.want(false, true, "Blocking 4 IPs")
		l.list = page
		if l.want(false, false, "Still blocking 4 IPs"); l.wait > time.Minute {
			t.Errorf("while a list is active, the next pull comes after %v", l.wait)
		}
		l.wantConditions(status.CondRefresh)
	}
}

// TestARestartLoopSparesTheQuota: an agent that restarts all the time enforces the saved list, and
// leaves half of the quota.
func TestARestartLoopSparesTheQuota(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.quota = 24
	for range 20 {
		if l.a.firstPull(l.a.sikker()) == 0 {
			l.want(false, true, "Blocking 4 IPs")
		}
		l.restart()
		if !l.kernel.listOf("203.0.0.3") {
			t.Fatal("the saved list is not active")
		}
	}
	if l.pulls > 13 {
		t.Errorf("%d pulls in 20 restarts", l.pulls)
	}
	if wait := l.a.firstPull(l.a.sikker()); wait <= 0 || wait > 3*time.Hour {
		t.Errorf("the first pull waits %v", wait)
	}
	pulled := &l.a.sikker().list.at.Wall
	*pulled = pulled.Add(24 * time.Hour) // the clock was ahead then, and tells nothing of the list's age
	if wait := l.a.firstPull(l.a.sikker()); wait != 0 {
		t.Errorf("after a pull in the future the first pull waits %v", wait)
	}
	if q := l.a.o.Board.Status().Quota.Pulls; q == nil || q.Remaining != 24-l.pulls {
		t.Errorf("the quota is not known after a restart: %+v", q)
	}
}

// TestTheListIsSavedWhenTheDiskHasRoom: a list that could not be saved is saved as soon as that
// works. Until then the status reports it.
func TestTheListIsSavedWhenTheDiskHasRoom(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.a.sikker().saver.backoff = clock.NewBackoff(time.Second, time.Second) // the test is in a hurry
	inTheWay := filepath.Join(l.dir, "blacklist.txt")
	if err := os.MkdirAll(inTheWay, 0o700); err != nil { // stands for a disk that takes nothing
		t.Fatal(err)
	}
	l.want(false, true, "Blocking 4 IPs")
	settle(l.a)
	l.wantConditions(status.CondUnkept)
	if s := l.a.o.Board.Status(); s.State != status.StateDegraded || !strings.Contains(s.Reason, "save list") {
		t.Errorf("%s %q", s.State, s.Reason)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); l.a.sikker().saver.pending() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	l.wantConditions()
	if c, err := l.a.sikker().saved.Load(); err != nil || c.Entries != 4 {
		t.Errorf("saved: %d entries, %v", c.Entries, err)
	}
}

// TestADryRunWritesNothing: a dry run leaves the state directory as it is, whatever it pulls,
// refuses and accepts.
func TestADryRunWritesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	l.list = hosts("203.0", 20)
	l.want(false, false, "shrink guard")
	settle(l.a)
	state := func() (files []string) {
		entries, err := os.ReadDir(l.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range entries {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, fmt.Sprint(f.Name(), info.Size(), info.ModTime()))
		}
		return files
	}
	before := state()
	l.restart("SIKKER_DRY_RUN=true")
	l.want(true, true, "Would block 20 IPs") // the list that was refused
	l.list = hosts("203.0", 30)
	l.want(false, true, "Would block 30 IPs")
	l.list = hosts("203.0", 1)
	l.want(false, false, "shrink guard")
	l.a.rewriteLost(lostFiles{lists: l.a.remotes, refused: l.a.remotes, names: true})
	settle(l.a)
	if after := state(); !slices.Equal(before, after) {
		t.Errorf("the state directory has %q, had %q", after, before)
	}
}

// TestAnotherKeyHasListsOfAnotherSize: the saved list of another key of the same API is active at
// the start, and the first list of the new key replaces it, whatever its size.
func TestAnotherKeyHasListsOfAnotherSize(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	l.restart("SIKKER_API_KEY=sk_test_rotated")
	if n := l.a.o.Board.Latest().BlockedIPs; n != 5000 {
		t.Errorf("%d entries are active after the start", n)
	}
	l.list = hosts("203.0", 20)
	l.want(false, true, "Blocking 20 IPs")
	l.list = hosts("203.0", 5000)
	l.want(false, false, "growth guard")
}

// TestAnEmptyFirstListIsRefused: a list without entries is not taken for the one that is active while none is.
func TestAnEmptyFirstListIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, "")
	l.want(false, false, "empty guard")
	l.wantConditions(status.CondRefused)
}

// TestAnActiveListEndsTheSpreading: refused lists are pulled ever less often, and after one became active as often as at first.
func TestAnActiveListEndsTheSpreading(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	refuse := func(want time.Duration) {
		t.Helper()
		l.list = hosts("203.0", 20)
		if l.a.sikker().refused.shrunk > 0 {
			l.list = hosts("203.0", 20000)
		}
		if l.want(false, false, " guard"); l.wait != want {
			t.Errorf("the next pull waits %v, want %v", l.wait, want)
		}
	}
	refuse(retryRefused)
	refuse(2 * retryRefused)
	refuse(4 * retryRefused)
	l.list = hosts("203.0", 5001)
	l.want(false, true, "Blocking 5001 IPs")
	refuse(retryRefused)
}
