package deliver

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// TestLateDatagrams checks that datagrams which come before the tracked connections may be read
// again are reported after the next reading, and that replies never are. Without tracking they are
// never reported. All are in the history within lateFor. Those that no reading decides are counted.
func TestLateDatagrams(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("203.0.113.9")
	for name, tt := range map[string]struct {
		tracked             bool
		took                time.Duration // of one reading
		peers               map[netip.Addr]bool
		err                 error
		reported, undecided uint64
	}{
		"OK a source that began":       {true, 100 * time.Millisecond, nil, nil, 40, 0},
		"bad this host began":          {true, 100 * time.Millisecond, map[netip.Addr]bool{source: true}, nil, 0, 0},
		"bad there are too many flows": {true, time.Millisecond, nil, host.ErrFlows, 0, 40},
		"bad readings are too rare":    {true, 500 * time.Millisecond, nil, nil, 16, 24},  // one in ten seconds
		"bad sockets may be closed":    {false, 100 * time.Millisecond, nil, nil, 20, 20}, // one in two seconds
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := witness(t)
				o := &r.evidence.outbound
				o.Tracks = func() bool { return tt.tracked }
				o.Peers = func() (map[netip.Addr]bool, error) {
					time.Sleep(tt.took)
					return tt.peers, tt.err
				}
				if !tt.tracked {
					o.Sockets = func() ([]host.UDPSocket, error) {
						time.Sleep(tt.took)
						return nil, nil
					}
				}
				k := sensor.Key{Source: source, Port: 53, Protocol: sensor.UDP, Kind: sensor.Attempt}
				var reported, kept uint64
				begin := time.Now()
				for second := range 20 + int(lateFor/time.Second) {
					var hits []sensor.Hit
					at := begin.Add(time.Duration(second) * time.Second)
					if second < 20 {
						hits = []sensor.Hit{{Key: k, Packets: 2, First: at.Add(time.Millisecond), Last: at.Add(time.Second / 2)}}
					}
					time.Sleep(time.Until(at.Add(time.Second)))
					rows, waiting := r.rows(r.evidence.add(hits, at.Add(time.Second)).Hits)
					for _, row := range rows {
						if !row.Silent {
							reported += row.Packets
						}
						if !row.Held {
							kept += row.Packets
						}
					}
					r.evidence.settle(rows, waiting)
				}
				undecided := r.evidence.undecidedPackets()
				if reported != tt.reported || kept != 40 || undecided != tt.undecided {
					t.Errorf("of 40 packets %d are reported, %d in the history, %d undecided; want %d, 40, %d",
						reported, kept, undecided, tt.reported, tt.undecided)
				}
			})
		})
	}
}

// TestExpiredDatagrams checks that datagrams of a reading that came late are not reported, because the
// kernel may have forgotten that this host began, and that other hits of the reading are.
func TestExpiredDatagrams(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("203.0.113.9")
	for name, tt := range map[string]struct {
		span                time.Duration
		reported, undecided uint64
	}{
		"OK a reading every ten seconds":      {10 * time.Second, 9, 0},
		"bad the kernel refused for a minute": {time.Minute, 1, 8},
		"bad it refused a little too long":    {trackedFor + time.Second, 1, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := witness(t)
			o := &r.evidence.outbound
			o.Tracks = func() bool { return true }
			o.Peers = func() (map[netip.Addr]bool, error) { return nil, nil } // it has forgotten
			now := time.Now()
			datagrams := sensor.Hit{
				Key:     sensor.Key{Source: source, Port: 53, Protocol: sensor.UDP},
				Packets: 4, First: now.Add(-tt.span), Last: now.Add(-time.Second),
			}
			knock := datagrams
			knock.Protocol, knock.Port, knock.Packets = sensor.TCP, 22, 1
			hits := []sensor.Hit{datagrams, knock, datagrams}
			rows, _ := r.rows(r.evidence.add(hits, now).Hits)
			var reported uint64
			for _, row := range rows {
				if !row.Silent {
					reported += row.Packets
				}
			}
			undecided := r.evidence.undecidedPackets()
			if reported != tt.reported || undecided != tt.undecided || len(rows) != 3 {
				t.Errorf("%d packets in %d rows are reported, %d undecided; want %d in 3 and %d",
					reported, len(rows), undecided, tt.reported, tt.undecided)
			}
			if hits[0].Kind != sensor.Attempt {
				t.Error("the hits of the other sinks have changed")
			}
		})
	}
}

// TestLateAreBounded checks that datagrams beyond the bound of those that wait are in the history at
// once, and are counted.
func TestLateAreBounded(t *testing.T) {
	t.Parallel()
	r, now := witness(t), time.Now()
	r.SetListed(blocks("16.0.0.0/8"))
	o := &r.evidence.outbound
	o.Tracks = func() bool { return true }
	o.Peers = func() (map[netip.Addr]bool, error) { return nil, host.ErrFlows }
	var hits []sensor.Hit
	for i := range maxLate + 10 {
		k := sensor.Key{Source: netip.AddrFrom4([4]byte{16, 0, byte(i >> 8), byte(i)}), Port: 53, Protocol: sensor.UDP}
		hits = append(hits, sensor.Hit{Key: k, Packets: 1, First: now, Last: now.Add(time.Millisecond)})
	}
	if n := len(r.evidence.add(hits, now).Hits); n != 10 || r.evidence.undecidedPackets() != 10 {
		t.Errorf("%d hits do not wait and %d are counted, want 10", n, r.evidence.undecidedPackets())
	}
	if n := len(r.evidence.takeLate().Hits); n != maxLate {
		t.Errorf("%d hits wait, want %d", n, maxLate)
	}
}

// TestLateAtTheEnd checks that datagrams that wait for a reading when Run ends are recorded.
func TestLateAtTheEnd(t *testing.T) {
	t.Parallel()
	db := &recordings{Store: store.New(store.Options{Dir: t.TempDir()})}
	t.Cleanup(func() { _ = db.Close() })
	r, _, _ := newRecorder(t, db)
	r.SetListed(blocks("203.0.113.9/32"))
	r.evidence.outbound.Outbound = witness(t).evidence.outbound.Outbound
	r.evidence.outbound.Tracks = func() bool { return true }
	r.evidence.outbound.Peers = func() (map[netip.Addr]bool, error) { return nil, host.ErrFlows }
	k, now := key(sensor.Attempt), time.Now()
	k.Protocol, k.Port = sensor.UDP, 53
	r.Add(sensor.Window{Hits: []sensor.Hit{{Key: k, Packets: 7, First: now, Last: now.Add(time.Millisecond)}}}, now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil || len(db.hits) != 1 || db.hits[0].Packets != 7 || !db.hits[0].Silent {
		t.Errorf("recorded %+v, %v; want 7 packets that are not reported", db.hits, err)
	}
}

// recordings is a Store that also keeps the hits that it takes.
type recordings struct {
	*store.Store

	hits []store.Hit
}

func (d *recordings) Add(ctx context.Context, r store.Record) error {
	d.hits = append(d.hits, r.Hits...)
	return d.Store.Add(ctx, r)
}
