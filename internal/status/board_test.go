package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// testBoard returns a board of an agent without dry run, with the options that change sets, and its
// log.
func testBoard(t *testing.T, change func(*Options)) (*Board, *zapobserver.ObservedLogs) {
	t.Helper()
	core, logs := zapobserver.New(zapcore.DebugLevel)
	o := Options{
		Version: "1.0.0", Secret: "sk_test_unit", PullInterval: 24 * time.Hour, Clock: clock.System(),
		Log: zap.New(core, zap.Development()),
	}
	if change != nil {
		change(&o)
	}
	return New(o), logs
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw) + "\n"
}

// TestStatusShape checks every field and the order of the fields, because programs read them.
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

// failed returns the condition of a refresh that failed.
func failed(detail string) []Condition {
	return withCondition(nil, rowOf(CondRefresh), detail, true)
}

// TestNow checks the state, its reason, the source and the count of entries that readers get.
func TestNow(t *testing.T) {
	t.Parallel()
	fresh := clock.Moment{Wall: time.Now()}
	old := clock.Moment{Wall: time.Now().Add(-4 * 24 * time.Hour)}
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
		{
			name:  "OK active",
			s:     Status{Enforcing: StateActive, PulledAt: fresh, BlockedIPs: 5},
			state: StateActive, healthy: true, source: SourceAPI, blocked: 5,
		},
		{
			name:  "OK saved list",
			s:     Status{Enforcing: StateActive, PulledAt: fresh, Kept: true, BlockedIPs: 5, Conditions: failed("5")},
			state: StateDegraded, healthy: true, reason: ": 5", source: SourceKept, blocked: 5,
		},
		{
			name:  "OK the operator's list alone",
			s:     Status{Enforcing: StateActive, BlockedIPs: 5, Conditions: failed("503")},
			state: StateDegraded, healthy: true, reason: "503", source: SourceCustom, blocked: 5,
		},
		{
			name:  "OK old is degraded and healthy",
			s:     Status{Enforcing: StateActive, PulledAt: old, BlockedIPs: 5},
			state: StateDegraded, healthy: true, reason: "the list is 96h", source: SourceAPI, blocked: 5,
		},
		{
			name:  "bad table gone between two checks of the watch",
			s:     Status{Enforcing: StateActive, PulledAt: fresh, BlockedIPs: 5},
			gone:  gone,
			state: StateUnprotected, reason: gone.Error(), source: SourceNone,
		},
		{
			name:  "bad table gone while degraded",
			s:     Status{Enforcing: StateActive, PulledAt: fresh, Conditions: failed("503"), BlockedIPs: 5},
			gone:  gone,
			state: StateUnprotected, reason: gone.Error() + "; " + Message(CondRefresh) + ": 503", source: SourceNone,
		},
		{
			name:  "bad starting",
			s:     Status{Enforcing: StateStarting},
			gone:  gone,
			state: StateStarting, source: SourceNone,
		},
		{
			name:  "bad nothing active",
			s:     Status{Enforcing: StateUnprotected, Conditions: failed("pull:\n\x1b[31m503")},
			state: StateUnprotected, reason: "pull: [31m503", source: SourceNone,
		},
		{
			name: "OK dry run", dryRun: true,
			s:     Status{Enforcing: StateDryRun, PulledAt: fresh, WouldBlock: 5},
			state: StateDryRun, source: SourceAPI,
		},
		{
			name: "OK dry run whose last pull failed", dryRun: true,
			s:     Status{Enforcing: StateDryRun, PulledAt: fresh, WouldBlock: 5, Conditions: failed("503")},
			state: StateDryRun, reason: "503", source: SourceAPI,
		},
		{
			name: "bad dry run with an old list", dryRun: true,
			s:     Status{Enforcing: StateDryRun, PulledAt: old, WouldBlock: 5},
			state: StateDryRun, reason: "the list is 96h", source: SourceAPI,
		},
		{
			name: "bad dry run without a list", dryRun: true,
			s:     Status{Enforcing: StateDryRun, Conditions: failed("503")},
			state: StateDryRun, reason: "503", source: SourceCustom,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, _ := testBoard(t, func(o *Options) {
				if !tt.dryRun {
					o.Present = func() error { return tt.gone }
				}
			})
			tt.s.settle()
			b.latest.Store(&tt.s)
			got := b.Now()
			if got.State != tt.state || got.Healthy != tt.healthy || !strings.Contains(got.Reason, tt.reason) ||
				(got.Reason == "") != (tt.reason == "") || got.Source != tt.source || got.BlockedIPs != tt.blocked {
				t.Errorf("got %+v", got)
			}
			goodDryRun := strings.HasPrefix(tt.name, "OK dry run")
			if ok, text := b.Health(); ok != (tt.healthy || goodDryRun) || tt.healthy != (text == "") ||
				goodDryRun != (text == dryRunNote) {
				t.Errorf("health: %v %q", ok, text)
			}
			if tt.s.BlockedIPs != b.Latest().BlockedIPs {
				t.Error("a published value has changed")
			}
		})
	}
}

// TestPlain checks that an error in the status is one bounded line without the key.
func TestPlain(t *testing.T) {
	t.Parallel()
	b, _ := testBoard(t, nil)
	b.SetError(PullError, errors.New("401 for sk_test_unit\r\n\x1b[2J"+strings.Repeat("ä", 1000)))
	b.SetError(ApplyError, nil)
	e := b.Status().Errors
	if e.Apply != nil || e.Report != nil {
		t.Errorf("errors that did not occur: %+v", e)
	}
	text := e.Pull.Text
	if !strings.HasPrefix(text, "401 for [redacted] [2Jää") || len(text) > maxText+len("…") ||
		strings.ContainsAny(text, "\n\x1b\ufffd") {
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
		want  Quota
	}{
		{0, Quota{24, 3, now.Add(time.Hour)}},
		{time.Hour, Quota{24, 24, now.Add(25 * time.Hour)}},
		{50 * time.Hour, Quota{24, 24, now.Add(73 * time.Hour)}},
	} {
		if diff := cmp.Diff(&tt.want, QuotaOf(q, now.Add(tt.after))); diff != "" {
			t.Errorf("%v later (-want +got):\n%s", tt.after, diff)
		}
	}
}

// TestTimesInStatus checks that a list of this run keeps its age when the clock is corrected, and
// that a saved list of the future has no age. A condition then holds, and the state stays active.
func TestTimesInStatus(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	b, _ := testBoard(t, nil)
	wall, boot := time.Unix(0, 0), time.Hour
	b.o.Clock = clock.Clock{Wall: func() time.Time { return wall }, Boot: func() time.Duration { return boot }}
	b.Update(func(s *Status) { s.Enforcing = StateActive })
	b.Update(func(s *Status) { s.PulledAt = b.o.Clock.Now() })
	b.Update(func(s *Status) { s.NextPullAt = b.o.Clock.After(24 * time.Hour) })
	boot += 2 * time.Hour
	wall = noon // NTP sets the clock
	s := b.Now()
	if s.State != StateActive || !s.AgeKnown || s.Age != 2*time.Hour || !s.LastPull.Equal(noon.Add(-2*time.Hour)) {
		t.Errorf("a list of this run: %s, age %v %t, pulled %v", s.State, s.Age, s.AgeKnown, s.LastPull)
	}
	if !s.NextPull.Before(noon) {
		t.Errorf("next pull at %v; with the corrected clock it is due at once", s.NextPull)
	}
	b.Update(func(s *Status) { s.NextPullAt = b.o.Clock.After(24 * time.Hour) })
	wall = noon.Add(-10 * time.Hour)
	if s := b.Now(); !s.NextPull.Equal(noon.Add(14 * time.Hour)) {
		t.Errorf("next pull at %v with the clock put back, want %v", s.NextPull, noon.Add(14*time.Hour))
	}

	wall = noon
	b.Update(func(s *Status) { s.PulledAt = clock.Moment{Wall: noon.AddDate(0, 0, 3)} })
	b.Update(func(s *Status) { s.Kept = true })
	s = b.Now()
	var held []Code
	for _, c := range s.Conditions {
		held = append(held, c.Code)
	}
	if diff := cmp.Diff([]Code{CondAge}, held); diff != "" || s.State != StateActive || s.AgeKnown ||
		s.Source != SourceKept {
		t.Errorf(
			"a saved list of the future: %s, %s, age known %t, conditions (-want +got):\n%s",
			s.State,
			s.Source,
			s.AgeKnown,
			diff,
		)
	}
	wall = noon.AddDate(0, 0, 4)
	if s := b.Now(); !s.AgeKnown || s.Age != 24*time.Hour || len(s.Conditions) != 0 {
		t.Errorf("with a corrected clock: age %v %t, %d conditions", s.Age, s.AgeKnown, len(s.Conditions))
	}
}

func TestStatusLine(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		s    Status
		want string
	}{
		{"OK starting", Status{State: StateStarting}, "Starting"},
		{"OK active", Status{State: StateActive, BlockedIPs: 8774}, "Blocking 8774 IPs"},
		{
			"OK degraded",
			Status{State: StateDegraded, BlockedIPs: 7, Reason: "pull: 503"},
			"Blocking 7 IPs, degraded: pull: 503",
		},
		{"OK unprotected", Status{State: StateUnprotected, Reason: "pull: 503"}, "Unprotected: pull: 503"},
		{"OK nothing to block", Status{State: StateUnprotected}, "Unprotected"},
		{"OK dry run", Status{State: StateDryRun, WouldBlock: 7}, "Dry run, nothing is blocked: would block 7 IPs"},
		{
			"OK dry run without a list",
			Status{State: StateDryRun, Reason: "pull: 503"},
			"Dry run, nothing is blocked: would block 0 IPs, pull: 503",
		},
		{
			"bad newline begins no assignment",
			Status{State: StateUnprotected, Reason: "a\nMAINPID=1\x00\u0085b"},
			"Unprotected: a MAINPID=1 b",
		},
		{"bad UTF-8", Status{State: StateUnprotected, Reason: "a\xffb"}, "Unprotected: a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, _ := testBoard(t, nil)
			b.latest.Store(&tt.s)
			if diff := cmp.Diff(tt.want, b.Line()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	b, _ := testBoard(t, nil)
	b.latest.Store(&Status{State: StateUnprotected, Reason: strings.Repeat("é", lineMost)})
	if got := b.Line(); len(got) > lineMost+len("…") || !utf8.ValidString(got) || !strings.HasSuffix(got, "é…") {
		t.Errorf("a long reason became %q", got)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	tests := []struct {
		enforcing State
		reason    string
		ok        bool
		want      string
	}{
		{StateStarting, "starting", false, "starting"},
		{StateActive, "", true, ""},
		{StateActive, "pull: 503", true, ""},
		{StateUnprotected, "pull: 503", false, "unprotected: The last refresh of the list failed: pull: 503"},
		{StateDryRun, "pull: 503", false, "dry-run: The last refresh of the list failed: pull: 503"},
	}
	for _, tt := range tests {
		b, _ := testBoard(t, nil)
		b.Update(func(s *Status) {
			if s.Enforcing = tt.enforcing; tt.reason != "" {
				s.Conditions = failed(tt.reason)
			}
		})
		if ok, reason := b.Health(); ok != tt.ok || reason != tt.want {
			t.Errorf("%s: got %v %q, want %v %q", tt.enforcing, ok, reason, tt.ok, tt.want)
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 12 * time.Second: "12s", 90 * time.Second: "1m",
		24 * time.Hour: "24h", 2*time.Hour + 15*time.Minute: "2h 15m",
	} {
		if got := Short(d); got != want {
			t.Errorf("Short(%v): got %q, want %q", d, got, want)
		}
	}
}

// TestPanicOfAReader checks that a question whose answer panics fails alone, and that the next one
// is answered.
func TestPanicOfAReader(t *testing.T) {
	t.Parallel()
	broken, panicked := true, 0
	b, _ := testBoard(t, func(o *Options) {
		o.Fill = []func(*Status){func(*Status) {
			if broken {
				panic("no such feature")
			}
		}}
		o.Panicked = func(string, error) { panicked++ }
	})
	b.Update(func(s *Status) { s.Enforcing = StateActive })
	if _, err := b.Gatherer().Gather(); err == nil || !strings.Contains(err.Error(), "no such feature") {
		t.Errorf("a scrape is answered with %v", err)
	}
	err := panics.Contain(func() error { b.StatusJSON(); return nil })
	if _, ok := errors.AsType[*panics.Error](err); !ok || panicked != 2 {
		t.Errorf("the status is answered with %v; Panicked is called %d times, want 2", err, panicked)
	}
	broken = false
	if s := b.StatusJSON().(Status); s.State != StateActive {
		t.Errorf("then it is %s: %s", s.State, s.Reason)
	}
}
