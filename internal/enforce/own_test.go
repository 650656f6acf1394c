package enforce

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// ownScene is an Enforcer with an operator's list. The test plays its loop.
type ownScene struct {
	t    *testing.T
	a    *Enforcer
	logs *zapobserver.ObservedLogs
	path string
}

func newOwnScene(t *testing.T, path, state string) *ownScene {
	t.Helper()
	a, logs := newEnforcer(t, "SIKKER_CUSTOM_BLACKLIST="+path, "SIKKER_STATE_DIR="+state)
	t.Cleanup(func() { settle(a) }) // they write to a directory that is removed
	return &ownScene{t, a, logs, path}
}

// next ends the Enforcer and returns one of the next run, with the same state directory.
func (s *ownScene) next(state string) *ownScene {
	s.t.Helper()
	settle(s.a)
	return newOwnScene(s.t, s.path, state)
}

// read reads the file once, as it is, and applies the reading.
func (s *ownScene) read() {
	s.t.Helper()
	s.a.own.reader.publish(s.a.own.reader.read().ownReading)
	s.a.updateOwn()
}

func (s *ownScene) write(text string) {
	s.t.Helper()
	rewrite(s.t, s.path, text)
}

// entries returns the operator's list that counts now.
func (s *ownScene) entries() string {
	var ss []string
	for p := range s.a.own.list.All() {
		ss = append(ss, p.String())
	}
	return strings.Join(ss, " ")
}

// lines returns the log lines since the previous call.
func (s *ownScene) lines() (ss []string) {
	for _, e := range s.logs.TakeAll() {
		ss = append(ss, e.Message)
	}
	return ss
}

// TestDamagedOwnFileKeepsThePreviousList damages the operator's file in the ways of jobs that fetch
// it.
func TestDamagedOwnFileKeepsThePreviousList(t *testing.T) {
	t.Parallel()
	const good, list = "203.0.113.1\n203.0.113.2\n203.0.113.3\n", "203.0.113.1/32 203.0.113.2/32 203.0.113.3/32"
	for name, tt := range map[string]struct {
		damage func(s *ownScene)
		log    string
	}{
		"empty": {
			func(s *ownScene) { s.write("") },
			"Custom blacklist is refused; its previous entries stay (3 entries)",
		},
		"a page": {
			func(s *ownScene) { s.write("<html>\n502\n</html>\n") },
			"Custom blacklist is refused; its previous entries stay (3 entries)",
		},
		"no line": {
			func(s *ownScene) { s.write("host.example\n") },
			"Custom blacklist is refused; its previous entries stay (3 entries)",
		},
		"all": {
			func(s *ownScene) { s.write("::ffff:0:0/96\n") },
			"Custom blacklist is refused; its previous entries stay (3 entries)",
		},
		"binary": {
			func(s *ownScene) { s.write("\x7fELF\x00\x00\x00") },
			"Custom blacklist is refused; its previous entries stay (3 entries)",
		},
		"missing": {
			func(s *ownScene) { _ = os.Remove(s.path) },
			"Custom blacklist cannot be read; its previous entries stay (3 entries)",
		},
		"cut gzip": {
			func(s *ownScene) { s.write("\x1f\x8b\x08\x00") },
			"Custom blacklist cannot be read; its previous entries stay (3 entries)",
		},
		"directory": {func(s *ownScene) {
			_ = os.Remove(s.path)
			_ = os.Mkdir(s.path, 0o700)
		}, "Custom blacklist cannot be read; its previous entries stay (3 entries)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, state := filepath.Join(t.TempDir(), "list.txt"), t.TempDir()
			rewrite(t, path, good)
			s := newOwnScene(t, path, state)
			s.read()
			if s.lines(); s.entries() != list {
				t.Fatalf("the good file: %s", s.entries())
			}
			since := *s.a.o.Board.Latest().CustomList.Since
			tt.damage(s)
			for range 3 {
				s.read()
			}
			if diff := cmp.Diff([]string{tt.log}, s.lines()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			st := s.a.o.Board.Latest()
			if s.entries() != list || !st.Holds(status.CondCustom) || st.CustomList.Error == "" ||
				st.CustomList.Entries != 3 || !st.CustomList.Since.Equal(since) {
				t.Errorf("with the damaged file: %q, conditions %v, status %+v", s.entries(), st.Conditions,
					st.CustomList)
			}
			s.a.setStatus(func(s *status.Status) { s.Enforcing = status.StateActive })
			if state := s.a.o.Board.Latest().State; state != status.StateDegraded {
				t.Errorf("the state is %s", state)
			}

			// The next run has it also, before it reads the file.
			next := s.next(state)
			next.a.restoreOwn(next.a.readSaved().own)
			if next.entries() != list || !next.a.o.Board.Latest().CustomList.Since.Equal(since) {
				t.Errorf("after a restart: %q, %+v", next.entries(), next.a.o.Board.Latest().CustomList)
			}
			next.read()
			if next.entries() != list || !next.a.o.Board.Latest().Holds(status.CondCustom) {
				t.Errorf("after a restart, when the file was read: %q", next.entries())
			}

			_ = os.RemoveAll(path)
			s.write("203.0.113.1\n203.0.113.2\n")
			s.read()
			st = s.a.o.Board.Latest()
			if s.entries() != "203.0.113.1/32 203.0.113.2/32" || st.Holds(status.CondCustom) ||
				st.CustomList.Error != "" {
				t.Errorf("with a good file again: %q, %+v", s.entries(), st)
			}
			if diff := cmp.Diff([]string{"Custom blacklist can be read again (2 entries)"}, s.lines()); diff != "" {
				t.Errorf("log in the end (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOwnListMayBeEmptied: a file with only a comment empties the list. The next run does not
// restore the old entries.
func TestOwnListMayBeEmptied(t *testing.T) {
	t.Parallel()
	path, state := filepath.Join(t.TempDir(), "list.txt"), t.TempDir()
	rewrite(t, path, "203.0.113.1\n203.0.113.2\n203.0.113.3\n")
	s := newOwnScene(t, path, state)
	s.read()
	s.write("# nothing now\n")
	s.lines()
	s.read()
	if st := s.a.o.Board.Latest(); s.entries() != "" || st.Holds(status.CondCustom) || st.CustomList.Entries != 0 {
		t.Errorf("got %q, %+v", s.entries(), st.CustomList)
	}
	if diff := cmp.Diff([]string{"Custom blacklist shrank to 0 entries, it had 3"}, s.lines()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	s.write("")
	next := s.next(state)
	next.a.restoreOwn(next.a.readSaved().own)
	if said := next.lines(); said != nil || next.a.o.Board.Latest().CustomList == nil {
		t.Errorf("an empty copy is not taken: %q", said)
	}
	next.read()
	if next.entries() != "" || !next.a.o.Board.Latest().Holds(status.CondCustom) {
		t.Errorf("after a restart: %q", next.entries())
	}
}

// TestOwnListLogsALargeDecrease: a list that shrinks below half is logged, and a bad line is logged
// once.
func TestOwnListLogsALargeDecrease(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list.txt")
	rewrite(t, path, "203.0.113.1\n203.0.113.2\n203.0.113.3\n203.0.113.4\n")
	s := newOwnScene(t, path, t.TempDir())
	s.read()
	for _, step := range []struct {
		text string
		want []string
	}{
		{"203.0.113.1\n203.0.113.2\n", nil},
		{"203.0.113.1\n203.0.113.2\nhost.example\n", []string{"Custom blacklist: a line is left out"}},
		{"203.0.113.1\n203.0.113.2\nhost.example\n", nil},
		{"203.0.113.1\n203.0.113.2\n203.0.113.3\n203.0.113.4\n203.0.113.5\n", nil},
		{"203.0.113.1\n203.0.113.2\n", []string{"Custom blacklist shrank to 2 entries, it had 5"}},
	} {
		s.lines()
		s.write(step.text)
		s.read()
		if diff := cmp.Diff(step.want, s.lines()); diff != "" {
			t.Errorf("%q: log (-want +got):\n%s", step.text, diff)
		}
	}
	if bad := s.a.o.Board.Latest().CustomList.BadLines; bad != 0 {
		t.Errorf("%d bad lines", bad)
	}
}

// TestOwnListIsSavedLater: a list that the disk refuses at first is written later.
func TestOwnListIsSavedLater(t *testing.T) {
	t.Parallel()
	path, state := filepath.Join(t.TempDir(), "list.txt"), filepath.Join(t.TempDir(), "state")
	rewrite(t, path, "203.0.113.1\n")
	rewrite(t, state, "in the way")
	s := newOwnScene(t, path, state)
	s.read()
	settle(s.a)
	if _, err := s.a.o.Own.Saved.Load(nil); err == nil {
		t.Fatal("it was saved in a file")
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	s.a.own.saver.retryWrite()
	settle(s.a)
	if c, err := s.a.o.Own.Saved.Load(nil); err != nil || c.Entries != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestAllowlistThatCoversTheListsIsDegraded enforces lists that are allowlisted as a whole.
func TestAllowlistThatCoversTheListsIsDegraded(t *testing.T) {
	t.Parallel()
	list := func(ss ...string) blocklist.Blocklist { return blocklist.New(parsed(t, ss...)) }
	a, logs := newEnforcer(t)
	a.o.Host = host.New(host.Options{Root: t.TempDir()})
	a.backend.fw = &stubborn{}
	a.sikker().list.entries, a.own.list = list("198.51.100.1", "198.51.100.2"), list("203.0.113.9")
	a.surveys.publish(survey{allow: list("198.51.100.0/24", "203.0.113.0/24")})
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	if s := a.o.Board.Latest(); s.State != status.StateDegraded ||
		s.Reason != status.Message(status.CondCovered)+": 3 entries, and all are allowlisted" {
		t.Errorf("got %s %q", s.State, s.Reason)
	}
	if logs.FilterMessage(status.Message(status.CondCovered)).Len() != 1 {
		t.Errorf("it is not logged once: %v", logs.All())
	}
	a.surveys.publish(survey{allow: list("198.51.100.0/24")})
	a.applySurvey(t.Context())
	if s := a.o.Board.Latest(); s.State != status.StateActive {
		t.Errorf("in the end: %s %q", s.State, s.Reason)
	}
}

// TestOwnListRefusedAtFirst: a file that never was a list leaves no previous list.
func TestOwnListRefusedAtFirst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list.txt")
	rewrite(t, path, "")
	s := newOwnScene(t, path, t.TempDir())
	s.read()
	if diff := cmp.Diff([]string{"Custom blacklist is refused; it is not enforced"}, s.lines()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestEmptyListIsDegraded: rules that block nothing are a condition: an empty list that the
// operator accepted, or a list of an address family that this host does not filter.
func TestEmptyListIsDegraded(t *testing.T) {
	t.Parallel()
	a, logs := newEnforcer(t)
	a.o.Host = host.New(host.Options{Root: t.TempDir()})
	a.backend.fw = &stubborn{}
	list := blocklist.New(parsed(t, "198.51.100.1"))
	allow := blocklist.New(parsed(t, "192.0.2.1"))
	check := func(state status.State, reason string) {
		t.Helper()
		if s := a.o.Board.Latest(); s.State != state || s.Reason != reason {
			t.Errorf("got %s %q, want %s %q", s.State, s.Reason, state, reason)
		}
	}
	a.publish()
	check(status.StateUnprotected, "") // nothing is active
	if err := a.apply(t.Context(), desired{allow: allow}); err != nil {
		t.Fatal(err)
	}
	check(status.StateDegraded, "The active list is empty: nothing is blocked: it has no entries")
	if err := a.apply(t.Context(), desired{block: list, allow: allow}); err != nil {
		t.Fatal(err)
	}
	check(status.StateActive, "")
	a.active.entries4 = 0
	a.publish()
	check(status.StateDegraded,
		"The active list is empty: nothing is blocked: "+
			"this host filters no address family that the list has entries of")
	if n := logs.FilterMessage("The active list is empty: nothing is blocked").Len(); n != 2 {
		t.Errorf("it is logged %d times, want each time it begins", n)
	}
}

// TestOwnListWaitsForAnAllowlist: before the first survey no rules are applied, because the gateway
// may be listed.
func TestOwnListWaitsForAnAllowlist(t *testing.T) {
	t.Parallel()
	a, _ := newEnforcer(t)
	a.o.Host = host.New(host.Options{Root: t.TempDir()})
	a.backend.fw = &stubborn{}
	a.own.list = blocklist.New(parsed(t, "198.51.100.1", "192.0.2.1"))
	a.reconcile(t.Context(), "Custom blacklist changed")
	if a.active.rules != nil {
		t.Fatal("a list is active without an allowlist")
	}
	a.surveys.publish(survey{allow: blocklist.New(parsed(t, "192.0.2.1"))})
	a.applySurvey(t.Context())
	if e := a.active.rules; e == nil || e.block.Len() != 1 {
		t.Errorf("active: %+v", e)
	}
}

// TestOwnListStatusSince: the status has the time of the content, not of the last reading.
func TestOwnListStatusSince(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list.txt")
	rewrite(t, path, "203.0.113.1\n")
	s := newOwnScene(t, path, t.TempDir())
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.a.o.Clock = clock.Clock{Wall: func() time.Time { return at }, Boot: func() time.Duration { return time.Second }}
	s.read()
	at = at.Add(time.Hour)
	s.read()
	if got := s.a.o.Board.Latest().CustomList.Since; got == nil || !got.Equal(at.Add(-time.Hour)) {
		t.Errorf("the same content: since %v", got)
	}
	s.write("203.0.113.2\n")
	s.read()
	if got := s.a.o.Board.Latest().CustomList.Since; got == nil || !got.Equal(at) {
		t.Errorf("another content: since %v", got)
	}
}

func parsed(t *testing.T, ss ...string) (ps []netip.Prefix) {
	t.Helper()
	for _, s := range ss {
		p, err := blocklist.Parse(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		ps = append(ps, p)
	}
	return ps
}
