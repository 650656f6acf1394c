package enforce

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// toyKernel is a kernel in memory. It stores rules, or refuses them.
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

func (m *toyKernel) Remove() error { m.rules = ruleset.Ruleset{}; return nil }

func (*toyKernel) Disarm() error { return nil }

func (*toyKernel) Present() error { return nil }

func (*toyKernel) Counters() (ruleset.Counters, error) { return ruleset.Counters{}, nil }

func (*toyKernel) Info() ruleset.Info { return ruleset.Info{} }

func (m *toyKernel) listOf(addr string) bool {
	return m.rules.Block.Contains(netip.MustParseAddr(addr))
}

// lab is an API, a kernel in memory and an Enforcer between them. The test makes its turns.
type lab struct {
	t      *testing.T
	dir    string
	url    string
	list   string // the list that the API returns
	cut    int    // bytes of it, before the connection breaks; 0 for all
	status int    // of its answers; 0 for 200
	quota  int    // the quota that it reports; 0 for none
	pulls  int    // requests that it has received

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

// restart replaces the Enforcer by another with the same state directory, as after a kill. vars are
// changed settings.
func (l *lab) restart(vars ...string) {
	l.t.Helper()
	if l.a != nil {
		settle(l.a)
	}
	l.a, l.logs = newEnforcer(l.t, append([]string{"SIKKER_API_URL=" + l.url, "SIKKER_STATE_DIR=" + l.dir}, vars...)...)
	l.kernel = &toyKernel{err: l.refusing}
	l.a.backend.fw, l.a.o.Host = l.kernel, host.New(host.Options{Root: l.t.TempDir()})
	l.a.surveys.publish(survey{})
	close(l.a.surveys.next) // no survey is waited for
	l.a.restoreAll(l.t.Context())
}

// pull makes a turn in the manner of Run.
func (l *lab) pull(accept bool) Outcome {
	l.t.Helper()
	doneC := make(chan Outcome, 1)
	t := turn{remote: l.a.sikker(), order: order{accept: accept, askers: []chan<- Outcome{doneC}}}
	t.verdict, t.err = fetch(l.t.Context(), l.a.sikker().feed, l.a.sikker().vetOptions(), nil)
	l.wait = l.a.refresh(l.t.Context(), t)
	return <-doneC
}

// want pulls and compares the outcome.
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

// hosts returns a list of n addresses of a /16.
func hosts(net string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s.%d.%d\n", net, i>>8, i&0xff)
	}
	return b.String()
}
