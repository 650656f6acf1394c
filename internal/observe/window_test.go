package observe

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// fixed is a Sensor and a Counter that give the same figures at each call.
type fixed struct {
	w       sensor.Window
	events  uint64
	dropped uint64
	err     error // of Read
}

func (f fixed) Take() sensor.Window             { return f.w }
func (f fixed) Totals() sensor.Totals           { return sensor.Totals{Events: f.events} }
func (f fixed) Read() (ruleset.Counters, error) { return f.ReadSoon(), f.err }
func (f fixed) ReadSoon() ruleset.Counters      { return ruleset.Counters{Packets4: f.dropped} }

// sources returns a Window with one packet of each of n sources.
func sources(n int) (w sensor.Window) {
	for i := range n {
		k := sensor.Key{Source: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Port: 22, Protocol: sensor.TCP}
		w.Hits = append(w.Hits, sensor.Hit{Key: k, Packets: 1})
	}
	return w
}

// TestInexactWindow checks that the counts of a window are marked if they may be too low, that two
// such windows in a row cause one warning, and that the status has the packets without an event.
func TestInexactWindow(t *testing.T) {
	t.Parallel()
	overflow := sources(1)
	overflow.Overflow = 1
	for name, tt := range map[string]struct {
		f            fixed
		exact        bool
		unattributed uint64
	}{
		"OK each packet has an event":                  {fixed{sources(1), 5, 5, nil}, true, 0},
		"bad packets without an event":                 {fixed{sources(1), 5, 9, nil}, false, 4},
		"bad the kernel does not answer":               {fixed{sources(1), 5, 5, errors.New("EPERM")}, false, 0},
		"bad more sources than the sensor's table has": {fixed{overflow, 5, 5, nil}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				core, logs := zapobserver.New(zap.InfoLevel)
				o := New(Options{Sensor: tt.f, Counter: tt.f, PortName: portName, LogRate: 1000, Log: zap.New(core)})
				o.Finish()
				o.Finish()
				warnings := logs.FilterLevelExact(zap.WarnLevel).Len()
				lines := logs.FilterLevelExact(zap.InfoLevel).All()
				if len(lines) != 2 || strings.HasSuffix(lines[0].Message, " x1") != tt.exact || len(lines[0].Context) != 0 ||
					warnings != 1 && !tt.exact || warnings != 0 && tt.exact {
					t.Errorf("logged %+v, %d warnings", lines, warnings)
				}
				var s status.Status
				if o.Fill(&s); s.Unattributed != tt.unattributed || s.Events.Unattributed != tt.unattributed {
					t.Errorf("unattributed: %d and %d, want %d", s.Unattributed, s.Events.Unattributed, tt.unattributed)
				}
			})
		})
	}
}

// TestManySources checks that a window takes at most maxLines lines, and one for all other sources.
func TestManySources(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := zapobserver.New(zap.InfoLevel)
		f := fixed{w: sources(maxLines + 10)}
		o := New(Options{Sensor: f, Counter: f, PortName: portName, LogRate: 1000, Log: zap.New(core)})
		o.Finish()
		all := logs.All()
		const want = "BLOCKED 10 more sources and ports x10"
		if len(all) != maxLines+1 || all[maxLines].Message != want {
			t.Errorf("%d lines, the last %q; want %d and %q", len(all), all[len(all)-1].Message, maxLines+1, want)
		}
	})
}
