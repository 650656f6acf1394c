package agent

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/config"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
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

func TestHitLine(t *testing.T) {
	t.Parallel()
	a, _ := logged(t, "SIKKER_PORT_MAP=minecraft=25565")
	hit := func(src string, port uint16, p sensor.Protocol, n uint64) sensor.Hit {
		return sensor.Hit{Key: sensor.Key{Source: netip.MustParseAddr(src), Port: port, Protocol: p}, Packets: n}
	}
	tests := []struct {
		hit   sensor.Hit
		exact bool
		want  string
	}{
		{hit("185.16.39.79", 23, sensor.TCP, 47), true, "BLOCKED 185.16.39.79:23 (telnet) proto=TCP x47"},
		{hit("185.16.39.79", 23, sensor.TCP, 47), false, "BLOCKED 185.16.39.79:23 (telnet) proto=TCP x47+"},
		{hit("185.16.39.79", 25565, sensor.UDP, 1), true, "BLOCKED 185.16.39.79:25565 (minecraft) proto=UDP x1"},
		{hit("185.16.39.79", 4444, sensor.TCP, 2), true, "BLOCKED 185.16.39.79:4444 (port-4444) proto=TCP x2"},
		{hit("2001:db8::1", 22, sensor.TCP, 2), true, "BLOCKED [2001:db8::1]:22 (ssh) proto=TCP x2"},
		{hit("185.16.39.79", 0, sensor.ICMP, 3), true, "BLOCKED 185.16.39.79 proto=ICMP x3"},
		{
			sensor.Hit{Key: sensor.Key{Source: netip.MustParseAddr("9.9.9.9"), Port: 53, Protocol: sensor.UDP, Kind: sensor.Answer}, Packets: 3},
			true,
			"BLOCKED answers from 9.9.9.9:53 (dns) proto=UDP x3",
		},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, a.hitLine(tt.hit, tt.exact)); diff != "" {
			t.Errorf("line (-want +got):\n%s", diff)
		}
	}
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

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 12 * time.Second: "12s", 90 * time.Second: "1m", 24 * time.Hour: "24h", 2*time.Hour + 15*time.Minute: "2h 15m",
	} {
		if got := status.Short(d); got != want {
			t.Errorf("Short(%v): got %q, want %q", d, got, want)
		}
	}
}

// climbing is a kernel that has counted one more packet each time that it is asked.
type climbing struct {
	toyKernel

	n ruleset.Counters
}

func (c *climbing) Counters() (ruleset.Counters, error) {
	c.n.Packets4++
	return c.n, nil
}

// TestAFloodSpoilsOneWindow: the window of a flood, beyond the limit of the log rule, is not exact. In
// the next one a packet that is on its way to the sensor is not taken for one that the limit let go.
func TestAFloodSpoilsOneWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := logged(t)
		c := &climbing{}
		a.fw = c
		_, _ = a.ledger.Read()
		c.n.Packets4 += 2 * uint64(a.cfg.LogRate)
		a.collect()
		a.tellWindow()
		if !a.observer.inexact {
			t.Error("the window of the flood is exact")
		}
		a.observer.missing = a.ledger.ReadSoon().Packets() + 1 // all up to the next reading was told
		a.tellWindow()
		if a.observer.inexact {
			t.Error("the next window is not exact")
		}
	})
}
