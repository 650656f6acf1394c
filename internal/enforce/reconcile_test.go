package enforce

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestReconcile: while the allowlist cannot be applied, the status shows that beside the result of
// the last pull.
func TestReconcile(t *testing.T) {
	t.Parallel()
	const (
		stale = "The active rules lack the newest allowlist or custom blacklist: " +
			"no buffer space available"
		failed = "The last refresh of the list failed: 503"
	)
	list := func(s string) blocklist.Blocklist { return blocklist.New([]netip.Prefix{netip.MustParsePrefix(s)}) }
	old, moved := list("192.0.2.1/32"), list("192.0.2.2/32")
	for _, tt := range []struct {
		name    string
		pull    error
		again   blocklist.Blocklist // the host's addresses when it is tried again
		between string              // the reason after the failure
		state   status.State
		reason  string // and in the end
	}{
		{"OK the retry works", nil, moved, stale, status.StateActive, ""},
		{"OK the change was undone", nil, old, stale, status.StateActive, ""},
		{
			"bad the pull failed and still does", errors.New("503"), moved, failed + "; " + stale,
			status.StateDegraded, failed,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := newEnforcer(t)
			a.o.Host = host.New(host.Options{Root: t.TempDir()})
			a.backend.fw = &stubborn{}
			a.sikker().list.entries = list("198.51.100.1/32")
			a.surveys.publish(survey{allow: old})
			if err := a.apply(t.Context(), a.wanted()); err != nil {
				t.Fatal(err)
			}
			a.sikker().failure = tt.pull
			a.backend.fw = &stubborn{refuse: 1}
			a.surveys.publish(survey{allow: moved})
			a.applySurvey(t.Context())
			if s := a.o.Board.Latest(); s.State != status.StateDegraded || s.Reason != tt.between ||
				s.Errors.Apply == nil {
				t.Errorf("after the failure: %s %q", s.State, s.Reason)
			}
			a.surveys.publish(survey{allow: tt.again})
			a.applySurvey(t.Context())
			if s := a.o.Board.Latest(); s.State != tt.state || s.Reason != tt.reason {
				t.Errorf("in the end: %s %q", s.State, s.Reason)
			}
			if !a.active.rules.allow.Equal(tt.again) {
				t.Error("the active allowlist is not the host's")
			}
		})
	}
}

// stubborn is a kernel that refuses the next rules refuse times.
type stubborn struct {
	firewall.Backend

	refuse int
}

func (s *stubborn) Apply(_ context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	if s.refuse > 0 {
		s.refuse--
		return ruleset.Evidence{}, errors.New("no buffer space available")
	}
	return ruleset.Evidence{Entries4: rs.Block.Len4(), Entries6: rs.Block.Len6()}, nil
}

func (*stubborn) Info() ruleset.Info { return ruleset.Info{} }
