package observe

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// portName names some ports, as SIKKER_PORT_MAP does.
func portName(port uint16) (string, bool) {
	names := map[uint16]string{22: "ssh", 2222: "ssh", 23: "telnet", 53: "dns", 25565: "minecraft"}
	name, ok := names[port]
	return name, ok
}

func TestHitLine(t *testing.T) {
	t.Parallel()
	o := New(Options{PortName: portName})
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
			sensor.Hit{Packets: 3, Key: sensor.Key{
				Source: netip.MustParseAddr("9.9.9.9"), Port: 53, Protocol: sensor.UDP, Kind: sensor.Answer,
			}},
			true,
			"BLOCKED answers from 9.9.9.9:53 (dns) proto=UDP x3",
		},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, o.line(tt.hit, tt.exact)); diff != "" {
			t.Errorf("line (-want +got):\n%s", diff)
		}
	}
}

// climbing is a Counter that grows by one packet at each reading.
type climbing struct{ n ruleset.Counters }

func (c *climbing) Read() (ruleset.Counters, error) {
	c.n.Packets4++
	return c.n, nil
}

func (c *climbing) ReadSoon() ruleset.Counters {
	n, _ := c.Read()
	return n
}

// idle is a Sensor without events.
type idle struct{}

func (idle) Take() sensor.Window         { return sensor.Window{} }
func (idle) Hits() (ruleset.Hits, error) { return ruleset.Hits{}, nil }

// TestFloodAffectsOneWindow checks that the window of a flood beyond the limit of the log rule is
// not exact. In the next window a packet whose event is under way does not count as suppressed.
func TestFloodAffectsOneWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const logRate = 1000
		c := &climbing{}
		o := New(Options{
			Sensor: idle{}, Counter: c, Keys: idle{}, PortName: portName, LogRate: logRate,
			Unread: func(error) {}, Log: zap.NewNop(),
		})
		c.n.Packets4 += 2 * logRate
		o.collect(false)
		o.Finish()
		if !o.inexact {
			t.Error("the window of the flood is exact")
		}
		o.account.miss(c.ReadSoon().Packets() + 1) // every packet up to the next reading was logged as missing
		o.Finish()
		if o.inexact {
			t.Error("the next window is not exact")
		}
	})
}

// TestHitsByService checks that hits are summed by the names of ports, and that all other ports are
// one service.
func TestHitsByService(t *testing.T) {
	t.Parallel()
	var a account
	hit := func(port uint16, n uint64) sensor.Hit { return sensor.Hit{Key: sensor.Key{Port: port}, Packets: n} }
	a.addHits([]sensor.Hit{hit(22, 5), hit(2222, 1), hit(4444, 2)}, 0, portName)
	_, before, _ := a.read()
	reply := sensor.Hit{Key: sensor.Key{Port: 22, Kind: sensor.Answer}, Packets: 7} // from port 22 of its source
	a.addHits([]sensor.Hit{hit(0, 3), hit(23, 1), reply}, 0, portName)
	_, after, _ := a.read()
	if diff := cmp.Diff(map[string]uint64{"ssh": 6, "other": 2}, before); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"ssh": 6, "telnet": 1, "other": 12}, after); diff != "" {
		t.Errorf("then (-want +got):\n%s", diff)
	}
}

// steady is a Sensor of one source that sends ten packets a second, and the Counter of these
// packets.
type steady struct {
	began time.Time
	taken uint64
}

func (s *steady) packets() uint64 { return uint64(time.Since(s.began) / (100 * time.Millisecond)) }

func (s *steady) Take() sensor.Window {
	n := s.packets() - s.taken
	s.taken += n
	k := sensor.Key{Source: netip.MustParseAddr("185.16.39.79"), Port: 23, Protocol: sensor.TCP}
	return sensor.Window{Hits: []sensor.Hit{{Key: k, Packets: n}}, Events: n}
}

func (s *steady) Hits() (ruleset.Hits, error)     { return ruleset.Hits{}, nil }
func (s *steady) Read() (ruleset.Counters, error) { return s.ReadSoon(), nil }
func (s *steady) ReadSoon() ruleset.Counters      { return ruleset.Counters{Packets4: s.packets()} }

// sink counts the hits and the calls.
type sink struct {
	packets uint64
	calls   int
}

func (s *sink) Add(w sensor.Window, _ time.Time) {
	s.calls++
	for _, h := range w.Hits {
		s.packets += h.Packets
	}
}

// TestRun checks that Run logs a window every ten seconds and passes the hits of each second to the
// sinks, that Finish logs the rest, and that no packet is logged twice.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := zapobserver.New(zap.InfoLevel)
		source, taker := &steady{began: time.Now()}, &sink{}
		o := New(Options{
			Sensor: source, Counter: source, Keys: source, Sinks: []Sink{taker}, PortName: portName,
			LogRate: 1000, Fields: true, Unread: func(error) {}, Log: zap.New(core), Ticker: clock.NewTimeTicker,
		})
		ctx, cancel := context.WithTimeout(t.Context(), 34500*time.Millisecond)
		defer cancel()
		if err := o.Run(ctx); err != nil {
			t.Error(err)
		}
		if n := logs.Len(); n != 3 {
			t.Errorf("%d windows are logged in 34 seconds, want 3", n)
		}
		o.Finish()
		var logged uint64
		for _, l := range logs.All() {
			packets, _ := l.ContextMap()["packets"].(uint64)
			logged += packets
			exact := l.ContextMap()["exact"]
			if !strings.HasPrefix(l.Message, "BLOCKED 185.16.39.79:23 (telnet) proto=TCP x") || exact != true {
				t.Errorf("logged %q, exact %v", l.Message, exact)
			}
		}
		n := source.packets()
		if logged != n || taker.packets != n || taker.calls < 34 {
			t.Errorf("%d packets: %d are logged, the sink has %d of %d calls", n, logged, taker.packets, taker.calls)
		}
		var s status.Status
		if o.Fill(&s); s.Events.Seen != n || s.Events.Unattributed != 0 || s.Hits["telnet"] != n {
			t.Errorf("the status has %+v, %v; want %d packets", s.Events, s.Hits, n)
		}
	})
}
