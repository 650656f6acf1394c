package agent

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/enforce"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

func testConfig(t *testing.T, vars ...string) config.Config {
	t.Helper()
	cfg, err := config.Load(append([]string{
		"SIKKER_API_KEY=sk_test_unit",
		"SIKKER_STATE_DIR=" + filepath.Join(t.TempDir(), "state"), // not the one of the machine of the test
	}, vars...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// newAgent returns an agent whose log makeLog makes, and the log.
func newAgent(
	t *testing.T, makeLog func(zapcore.Core, ...zap.Option) *zap.Logger, vars ...string,
) (*Agent, *zapobserver.ObservedLogs) {
	t.Helper()
	core, logs := zapobserver.New(zapcore.DebugLevel)
	a, err := New(testConfig(t, vars...), Options{Version: "1.0.0", Log: makeLog(core)})
	if err != nil {
		t.Fatal(err)
	}
	return a, logs
}

// logged returns an agent and its log, which panics at a panic of a part.
func logged(t *testing.T, vars ...string) (*Agent, *zapobserver.ObservedLogs) {
	t.Helper()
	strict := func(c zapcore.Core, _ ...zap.Option) *zap.Logger { return zap.New(c, zap.Development()) }
	return newAgent(t, strict, vars...)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	tests := []struct{ vars, want string }{
		{"", "Score threshold: 50 | Pull every 24h | Reports every 30m"},
		{
			"SIKKER_SCORE_MIN=80 SIKKER_PULL_INTERVAL=90 SIKKER_REPORT_INTERVAL=60",
			"Score threshold: 80 | Pull every 1h 30m | Reports every 1h",
		},
		{"SIKKER_REPORT_ENABLED=false", "Score threshold: 50 | Pull every 24h | Reports off"},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, settings(testConfig(t, strings.Fields(tt.vars)...))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.vars, diff)
		}
	}
}

// busy is a kernel with rules of a killed agent. It refuses to remove them as long as another task
// holds them.
type busy struct {
	firewall.Backend

	by    atomic.Bool
	tries atomic.Int32
}

func (*busy) Disarm() error                                { return nil }
func (*busy) Info() ruleset.Info                           { return ruleset.Info{} }
func (*busy) Counters() (ruleset.Counters, error)          { return ruleset.Counters{}, nil }
func (*busy) Hits() (ruleset.Hits, error)                  { return ruleset.Hits{}, nil }
func (*busy) Admit(context.Context, ruleset.Ruleset) error { return nil }

func (b *busy) Remove() error {
	b.tries.Add(1)
	if b.by.Load() {
		return errors.New("device or resource busy")
	}
	return nil
}

// TestRulesAreRemovedOnceTheirHolderEnded checks that a stop removes the rules before it waits for
// the tasks, and again if the kernel refused that. An error remains only if the kernel refuses both
// times.
func TestRulesAreRemovedOnceTheirHolderEnded(t *testing.T) {
	t.Parallel()
	table := []string{"table inet sikkerguard"}
	for _, tt := range []struct {
		name           string
		left           []string // rules that were there at the start
		before, after  bool     // held until the tasks have ended, and then
		tries, removed int
	}{
		{"OK at once", table, false, false, 1, 1},
		{"OK once the task has ended", table, true, false, 2, 1},
		{"bad held for ever", table, true, true, 2, 0},
		{"OK there were none, and none are logged", nil, false, false, 1, 0},
	} {
		a, logs := logged(t)
		k := &busy{}
		k.by.Store(tt.before)
		a.enforcer = enforce.New(enforce.Options{
			Open:      func() (firewall.Backend, error) { return k, nil },
			Leftovers: func() ([]string, error) { return tt.left, nil },
			Host:      host.New(host.Options{}), Board: a.board, Clock: clock.System(), Log: a.log,
		})
		if err := a.enforcer.Open(); err != nil {
			t.Fatal(err)
		}
		err := a.removeRules(func() error {
			if k.tries.Load() != 1 {
				t.Errorf("%s: the tasks are waited for before the rules are removed", tt.name)
			}
			k.by.Store(tt.after)
			return nil
		})
		n := logs.FilterMessage("Firewall rules removed").Len()
		if n != tt.removed || (err == nil) != (n == 1 || tt.left == nil) {
			t.Errorf("%s: the removal is logged %d times, error %v", tt.name, n, err)
		}
		if n := int(k.tries.Load()); n != tt.tries {
			t.Errorf("%s: removed %d times, want %d", tt.name, n, tt.tries)
		}
	}
}
