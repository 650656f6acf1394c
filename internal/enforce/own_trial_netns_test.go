package enforce

import (
	"errors"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// ownTrial is an Enforcer with an active list of the API. The test plays its loop.
type ownTrial struct {
	*Enforcer

	t *testing.T
}

func newOwnTrial(t *testing.T) ownTrial {
	t.Helper()
	a, _, _ := bench(t)
	file := feed.NewFile("/list.txt")
	a.o.Own = &Own{File: file, Saved: feed.NewSaved(a.o.StateDir, "custom", file), Path: "/list.txt"}
	a.own.reader = newOwnReader(nil, nil)
	s := ownTrial{a, t}
	s.surveys.publish(newestWith(listOf("192.0.2.2/32")))
	if err := s.pull("198.51.100.1/32"); err != nil {
		t.Fatal(err)
	}
	return s
}

// pull accepts a list of the API and applies the wanted rules.
func (s ownTrial) pull(prefixes ...string) error {
	s.accept(s.sikker(), accepted{entries: listOf(prefixes...), at: s.o.Clock.Now()})
	err := s.applyAll(s.t.Context())
	s.publish()
	return err
}

// read publishes a reading of the operator's list.
func (s ownTrial) read(prefixes ...string) {
	s.own.reader.publish(ownReading{verdict: vet.Verdict{List: listOf(prefixes...)}})
	s.updateOwn()
	s.reconcile(s.t.Context(), "Custom blacklist changed")
}

// expect compares the active rules, and whether a rollback is reported.
func (s ownTrial) expect(when string, rolledBack bool, prefixes ...string) {
	s.t.Helper()
	var got blocklist.Blocklist
	if e := s.active.rules; e != nil {
		got = e.block
	}
	if want := listOf(prefixes...); !got.Equal(want) {
		s.t.Errorf("%s: active are %v, want %v", when, got.Prefixes(), want.Prefixes())
	}
	if !reaches(s.t) {
		s.t.Errorf("%s: the API is not reached", when)
	}
	st := s.o.Board.Status()
	if st.Holds(status.CondRolledBack) != rolledBack || st.Holds(status.CondWhitelist) {
		s.t.Errorf("%s: conditions %v", when, st.Conditions)
	}
	if own := s.own.rejected != nil; st.CustomList != nil &&
		strings.Contains(st.CustomList.Error, "was rolled back") != own {
		s.t.Errorf("%s: the list's error is %q", when, st.CustomList.Error)
	}
}

// TestOwnListThatCutsOffIsRolledBackAlone: only the operator's list is rolled back. Lists of the
// API become active meanwhile, without another trial, and the operator's list when it is corrected.
func TestOwnListThatCutsOffIsRolledBackAlone(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := newOwnTrial(t)
	s.read("198.51.100.7/32")
	s.expect("with a good list", false, "198.51.100.1/32", "198.51.100.7/32")
	s.read("198.51.100.8/32", "203.0.113.0/24")
	s.expect("with a list that cuts off", true, "198.51.100.1/32", "198.51.100.7/32")
	for range 2 {
		if err := s.pull("198.51.100.2/32", "198.51.100.3/32"); err != nil {
			t.Errorf("a new list of the API: %v", err)
		}
		s.expect("after a pull", true, "198.51.100.2/32", "198.51.100.3/32", "198.51.100.7/32")
		s.applySurvey(t.Context())
	}
	if got := s.o.Board.Status(); got.Rollbacks != 1 || got.State != status.StateDegraded ||
		s.nextPull(s.sikker()) != s.o.PullInterval {
		t.Errorf("%d rollbacks, state %s, next pull in %v", got.Rollbacks, got.State, s.nextPull(s.sikker()))
	}
	s.read("198.51.100.8/32")
	s.expect("with the file mended", false, "198.51.100.2/32", "198.51.100.3/32", "198.51.100.8/32")
	s.read("203.0.113.0/31", "203.0.113.50/32")
	s.expect("with another list that cuts off", true, "198.51.100.2/32", "198.51.100.3/32", "198.51.100.8/32")
	s.surveys.publish(newestWith(listOf("203.0.113.50/32")))
	s.applySurvey(t.Context())
	s.expect("with the allowlist mended", false, "198.51.100.2/32", "198.51.100.3/32", "203.0.113.0/31")
}

// TestOwnListIsTriedAgain: the rejection of the operator's list ends, by time or by `pull
// --accept`.
func TestOwnListIsTriedAgain(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := newOwnTrial(t)
	for range 2 {
		s.read("203.0.113.0/24")
		s.expect("with a list that cuts off", true, "198.51.100.1/32")
		s.own.rejected.again.Reset(0)
		<-s.own.rejected.due()
		s.own.clearRejection()
		s.trials.rejected = nil
	}
	if got := s.o.Board.Status().Rollbacks; got != 2 {
		t.Errorf("%d rollbacks", got)
	}
	s.read("203.0.113.0/24")
	s.refresh(t.Context(), turn{remote: s.sikker(), order: order{accept: true}, err: errNotPulled})
	s.expect("when the operator has it tried again", true, "198.51.100.1/32")
	if got := s.o.Board.Status().Rollbacks; got != 4 {
		t.Errorf("%d rollbacks in the end", got)
	}
}

// TestOwnListThatCutsOffIsTheOnlyOne: without that list no rules are active, and the status shows
// that.
func TestOwnListThatCutsOffIsTheOnlyOne(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	s := newOwnTrial(t)
	s.active.rules, s.own.active = nil, blocklist.Blocklist{}
	s.setList(s.sikker(), accepted{})
	s.setStatus(func(st *status.Status) { st.BlockedIPs = 0 })
	if err := s.backend.fw.Remove(); err != nil {
		t.Fatal(err)
	}
	s.read("203.0.113.0/24")
	for _, allow := range []string{"192.0.2.2/32", "192.0.2.3/32"} {
		s.surveys.publish(newestWith(listOf(allow)))
		s.applySurvey(t.Context())
		s.expect("after a survey", true)
		if st := s.o.Board.Status(); s.active.rules != nil || st.State != status.StateUnprotected || st.Rollbacks != 1 {
			t.Errorf("active: %v, state %s, %d rollbacks", s.active.rules, st.State, st.Rollbacks)
		}
	}
	s.surveys.publish(newestWith(listOf("203.0.113.50/32")))
	s.applySurvey(t.Context())
	s.expect("with the allowlist mended", false, s.allBut("203.0.113.0/24", "203.0.113.50/32")...)
}

// allBut returns the prefixes of a network around another.
func (s ownTrial) allBut(network, hole string) (prefixes []string) {
	for p := range listOf(network).Without(listOf(hole)).All() {
		prefixes = append(prefixes, p.String())
	}
	return prefixes
}

// TestFeedListThatCutsOffIsRolledBackAlone: a list of the API is rolled back alone, with and
// without an active list before it.
func TestFeedListThatCutsOffIsRolledBackAlone(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		inside(t)
		return
	}
	for name, before := range map[string][]string{"after another": {"198.51.100.1/32"}, "first": nil} {
		t.Run(name, func(t *testing.T) {
			s := newOwnTrial(t)
			if before == nil {
				s.active.rules, s.own.active = nil, blocklist.Blocklist{}
				s.setList(s.sikker(), accepted{})
			}
			s.own.list = listOf("198.51.100.7/32")
			var r *RollbackError
			if err := s.pull("203.0.113.0/24"); !errors.As(err, &r) || r.Own {
				t.Errorf("a list of the API that cuts off: %v", err)
			}
			s.expect("after the pull", true, append(before, "198.51.100.7/32")...)
			if s.own.rejected != nil {
				t.Error("the operator's list is blamed")
			}
		})
	}
}
