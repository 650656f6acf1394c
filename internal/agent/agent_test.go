package agent

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

func testConfig(t *testing.T, vars ...string) config.Config {
	t.Helper()
	// Never the state directory of the machine that the test runs on.
	cfg, err := config.Load(append([]string{"SIKKER_API_KEY=sk_test_unit", "SIKKER_STATE_DIR=" + filepath.Join(t.TempDir(), "state")}, vars...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// logged is an agent whose log is kept, for what needs no stage.
func logged(t *testing.T, vars ...string) (*Agent, *zapobserver.ObservedLogs) {
	t.Helper()
	core, logs := zapobserver.New(zapcore.DebugLevel)
	a, err := New(testConfig(t, vars...), Options{Version: "1.0.0", Log: zap.New(core, zap.Development())})
	if err != nil {
		t.Fatal(err)
	}
	return a, logs
}

func TestSettings(t *testing.T) {
	t.Parallel()
	tests := []struct{ vars, want string }{
		{"", "Score threshold: 50 | Pull every 24h | Reports every 30m"},
		{"SIKKER_SCORE_MIN=80 SIKKER_PULL_INTERVAL=90 SIKKER_REPORT_INTERVAL=60", "Score threshold: 80 | Pull every 1h 30m | Reports every 1h"},
		{"SIKKER_REPORT_ENABLED=false", "Score threshold: 50 | Pull every 24h | Reports off"},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, settings(testConfig(t, strings.Fields(tt.vars)...))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.vars, diff)
		}
	}
}
