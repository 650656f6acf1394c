package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw) + "\n"
}

// TestStatusShape pins every field and their order: programs read it.
func TestStatusShape(t *testing.T) {
	t.Parallel()
	got := encode(t, sample())
	golden(t, "testdata/status.json", got)
	const documented = `{
  "status": "active",
  "blockedIps": 8774,
  "lastPull": "2026-02-24T10:30:00Z",
  "lastReport": "2026-02-24T10:30:00Z",
  "dryRun": false,
  "uptime": "2h 15m",
  "version": "1.0.0",
`
	if !strings.HasPrefix(got, documented) {
		t.Errorf("the documented fields are not the first ones:\n%s", got)
	}
}

// TestStatusAtStart: before anything happened there are nulls for times, and never for lists and maps.
func TestStatusAtStart(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	golden(t, "testdata/status_start.json", encode(t, a.board.Status()))
}

// kernel is a firewall whose rules can be taken away.
type kernel struct {
	firewall.Backend

	gone error
}

func (k *kernel) Present() error                    { return k.gone }
func (*kernel) Info() ruleset.Info                  { return ruleset.Info{Name: "nftables"} }
func (*kernel) Counters() (ruleset.Counters, error) { return ruleset.Counters{Packets4: 3}, nil }

// gappy is a firewall with gaps.
type gappy struct {
	kernel

	gaps, detours []string
}

func (g *gappy) Info() ruleset.Info { return ruleset.Info{Gaps: g.gaps, Detours: g.detours} }

// TestGapsAreToldOnce: one that shows with a list is logged then, and again only when it was gone in between.
func TestGapsAreToldOnce(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
	for _, step := range []struct{ gaps, want []string }{
		{[]string{"old"}, []string{"Firewall: old"}},
		{[]string{"old"}, nil},
		{[]string{"old", "left"}, []string{"Firewall: left"}},
		{[]string{"old"}, nil},
		{[]string{"old", "left"}, []string{"Firewall: left"}},
	} {
		a.fw = &gappy{gaps: step.gaps}
		a.tellGaps()
		var got []string
		for _, e := range logs.TakeAll() {
			got = append(got, e.Message)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("gaps %q: got %q, want %q", step.gaps, got, step.want)
		}
	}
}

// TestDetoursAreNoWarning: the log names once what the kernel lacks, and warns of nothing when the host is as protected.
func TestDetoursAreNoWarning(t *testing.T) {
	t.Parallel()
	a, logs := logged(t)
	a.fw = &gappy{gaps: []string{"open"}, detours: []string{"slow"}}
	a.tellGaps()
	a.tellGaps()
	var got []string
	for _, e := range logs.TakeAll() {
		got = append(got, e.Level.String()+" "+e.Message)
	}
	if want := []string{"warn Firewall: open", "info Firewall: slow"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if s := a.board.Status(); !slices.Equal(s.Gaps, []string{"open", "slow"}) {
		t.Errorf("status: gaps %q", s.Gaps)
	}
}

// failed is the condition of a refresh that did not succeed.
func failed(detail string) []ConditionStatus {
	return withCondition(nil, conditionRow(condRefresh), detail, true)
}

func TestNow(t *testing.T) {
	t.Parallel()
	fresh, old := time.Now(), time.Now().Add(-4*24*time.Hour)
	gone := fmt.Errorf("%w: table inet sikkerguard is missing", firewall.ErrMismatch)
	tests := []struct {
		name    string
		s       Status
		dryRun  bool
		gone    error
		state   State
		healthy bool
		reason  string
		source  string
		blocked int
	}{
		{"OK active", Status{Enforcing: StateActive, PulledAt: clock.Moment{Wall: fresh}, BlockedIPs: 5}, false, nil, StateActive, true, "", sourceAPI, 5},
		{"OK kept", Status{Enforcing: StateActive, PulledAt: clock.Moment{Wall: fresh}, Kept: true, BlockedIPs: 5, Conditions: failed("503")}, false, nil, StateDegraded, true, "503", sourceKept, 5},
		{"OK the operator's list alone", Status{Enforcing: StateActive, BlockedIPs: 5, Conditions: failed("503")}, false, nil, StateDegraded, true, "503", sourceCustom, 5},
		{"OK stale is degraded and healthy", Status{Enforcing: StateActive, PulledAt: clock.Moment{Wall: old}, BlockedIPs: 5}, false, nil, StateDegraded, true, "the list is 96h", sourceAPI, 5},
		{"bad table gone between two looks of the watch", Status{Enforcing: StateActive, PulledAt: clock.Moment{Wall: fresh}, BlockedIPs: 5}, false, gone, StateUnprotected, false, gone.Error(), sourceNone, 0},
		{"bad table gone while degraded", Status{Enforcing: StateActive, PulledAt: clock.Moment{Wall: fresh}, Conditions: failed("503"), BlockedIPs: 5}, false, gone, StateUnprotected, false, gone.Error() + "; " + conditionRow(condRefresh).message + ": 503", sourceNone, 0},
		{"bad starting", Status{Enforcing: StateStarting}, false, gone, StateStarting, false, "", sourceNone, 0},
		{"bad nothing in force", Status{Enforcing: StateUnprotected, Conditions: failed("pull:\n\x1b[31m503")}, false, nil, StateUnprotected, false, "pull: [31m503", sourceNone, 0},
		{"OK dry run", Status{Enforcing: StateDryRun, PulledAt: clock.Moment{Wall: fresh}, WouldBlock: 5}, true, nil, StateDryRun, false, "", sourceAPI, 0},
		{"OK dry run whose last pull failed", Status{Enforcing: StateDryRun, PulledAt: clock.Moment{Wall: fresh}, WouldBlock: 5, Conditions: failed("503")}, true, nil, StateDryRun, false, "503", sourceAPI, 0},
		{"bad dry run with an old list", Status{Enforcing: StateDryRun, PulledAt: clock.Moment{Wall: old}, WouldBlock: 5}, true, nil, StateDryRun, false, "the list is 96h", sourceAPI, 0},
		{"bad dry run without a list", Status{Enforcing: StateDryRun, Conditions: failed("503")}, true, nil, StateDryRun, false, "503", sourceCustom, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := logged(t)
			if !tt.dryRun {
				a.fw = &kernel{gone: tt.gone}
			}
			tt.s.settle()
			a.board.latest.Store(&tt.s)
			got := a.board.Now()
			if got.State != tt.state || got.Healthy != tt.healthy || !strings.Contains(got.Reason, tt.reason) || (got.Reason == "") != (tt.reason == "") || got.Source != tt.source || got.BlockedIPs != tt.blocked {
				t.Errorf("got %+v", got)
			}
			goodDryRun := strings.HasPrefix(tt.name, "OK dry run")
			if ok, text := a.board.Health(); ok != (tt.healthy || goodDryRun) || tt.healthy != (text == "") || goodDryRun != (text == dryRunNote) {
				t.Errorf("health: %v %q", ok, text)
			}
			if tt.s.BlockedIPs != a.board.latest.Load().BlockedIPs {
				t.Error("a value that was published has changed")
			}
		})
	}
}

// TestLostIsTold: what the watch finds shows at once, however long the enforcing task is busy, and is still handed to it.
func TestLostIsTold(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	a.fw = &kernel{}
	a.setStatus(func(s *Status) { s.Enforcing = StateActive })
	a.lost(errors.New("chain prerouting is missing"))
	if ok, reason := a.board.Health(); ok || reason != "unprotected: "+conditionRow(condRules).message+": chain prerouting is missing" {
		t.Errorf("health: %v %q", ok, reason)
	}
	if len(a.lostC) != 1 {
		t.Error("the enforcing task is not told")
	}
}

// TestPlain: an error in the status is one bounded line without the key.
func TestPlain(t *testing.T) {
	t.Parallel()
	a, _ := logged(t)
	a.remember(errors.New("401 for sk_test_unit\r\n\x1b[2J"+strings.Repeat("ä", 1000)), PullError)
	a.remember(nil, ApplyError)
	e := a.board.Status().Errors
	if e.Apply != nil || e.Report != nil {
		t.Errorf("errors that never were: %+v", e)
	}
	text := e.Pull.Text
	if !strings.HasPrefix(text, "401 for [redacted] [2Jää") || len(text) > maxText+len("…") || strings.ContainsAny(text, "\n\x1b\ufffd") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

func TestQuotaStatus(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 24, 10, 30, 0, 0, time.UTC)
	if got := QuotaOf(sikkerapi.Quota{}, now); got != nil {
		t.Errorf("not known: %+v", got)
	}
	q := sikkerapi.Quota{Known: true, Limit: 24, Remaining: 3, Reset: now.Add(time.Hour)}
	for _, tt := range []struct {
		after time.Duration
		want  QuotaStatus
	}{
		{0, QuotaStatus{24, 3, now.Add(time.Hour)}},
		{time.Hour, QuotaStatus{24, 24, now.Add(25 * time.Hour)}},
		{50 * time.Hour, QuotaStatus{24, 24, now.Add(73 * time.Hour)}},
	} {
		if diff := cmp.Diff(&tt.want, QuotaOf(q, now.Add(tt.after))); diff != "" {
			t.Errorf("%v later (-want +got):\n%s", tt.after, diff)
		}
	}
}

// TestSeen counts by the names of the port map, and everything else as one.
func TestSeen(t *testing.T) {
	t.Parallel()
	var s seen
	hit := func(port uint16, n uint64) sensor.Hit { return sensor.Hit{Key: sensor.Key{Port: port}, Packets: n} }
	cfg, err := config.Load([]string{"SIKKER_API_KEY=sk_test_unit"})
	if err != nil {
		t.Fatal(err)
	}
	s.add([]sensor.Hit{hit(22, 5), hit(2222, 1), hit(4444, 2)}, cfg.Ports)
	before := s.hits()
	s.add([]sensor.Hit{hit(0, 3), hit(23, 1)}, cfg.Ports)
	if diff := cmp.Diff(map[string]uint64{"ssh": 6, "other": 2}, before); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"ssh": 6, "telnet": 1, "other": 5}, s.hits()); diff != "" {
		t.Errorf("then (-want +got):\n%s", diff)
	}
}

// TestTimesInStatus: a list of this run keeps its age and place in time when the clock is put
// right, and a kept list of the future has none; the status says so, and stays active.
func TestTimesInStatus(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a, _ := logged(t)
	a.fw = &kernel{}
	wall, boot := time.Unix(0, 0), time.Hour
	a.clock = clock.Clock{Wall: func() time.Time { return wall }, Boot: func() time.Duration { return boot }}
	a.board.o.Clock = a.clock
	a.setStatus(func(s *Status) { s.Enforcing = StateActive })
	a.setPulled(pulled{list: blocks("203.0.113.9/32"), at: a.clock.Now()})
	a.setStatus(func(s *Status) { s.NextPullAt = a.clock.After(24 * time.Hour) })
	boot += 2 * time.Hour
	wall = noon // NTP has come
	s := a.board.Now()
	if s.State != StateActive || !s.AgeKnown || s.Age != 2*time.Hour || !s.LastPull.Equal(noon.Add(-2*time.Hour)) {
		t.Errorf("of this run: %s, age %v %t, pulled %v", s.State, s.Age, s.AgeKnown, s.LastPull)
	}
	if !s.NextPull.Before(noon) {
		t.Errorf("next pull at %v; the clock that was set has it due at once", s.NextPull)
	}
	a.setStatus(func(s *Status) { s.NextPullAt = a.clock.After(24 * time.Hour) })
	wall = noon.Add(-10 * time.Hour)
	if s := a.board.Now(); !s.NextPull.Equal(noon.Add(14 * time.Hour)) {
		t.Errorf("next pull at %v with the clock put back, want %v", s.NextPull, noon.Add(14*time.Hour))
	}

	wall = noon
	a.setPulled(pulled{list: blocks("203.0.113.9/32"), at: clock.Moment{Wall: noon.AddDate(0, 0, 3)}})
	a.setStatus(func(s *Status) { s.Kept = true })
	s = a.board.Now()
	var held []Code
	for _, c := range s.Conditions {
		held = append(held, c.Code)
	}
	if diff := cmp.Diff([]Code{condAge}, held); diff != "" || s.State != StateActive || s.AgeKnown || s.Source != sourceKept {
		t.Errorf("kept of the future: %s, %s, age known %t, conditions (-want +got):\n%s", s.State, s.Source, s.AgeKnown, diff)
	}
	wall = noon.AddDate(0, 0, 4)
	if s := a.board.Now(); !s.AgeKnown || s.Age != 24*time.Hour || len(s.Conditions) != 0 {
		t.Errorf("with the clock put right: age %v %t, %d conditions", s.Age, s.AgeKnown, len(s.Conditions))
	}
}
