package deliver

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// witness returns a Recorder of a host on which the API lists 203.0.113.9 and 198.51.100.0/24, and
// the operator 192.0.2.9. The host has a server at the port of memcached and sends to 203.0.113.9
// from the port of snmp.
func witness(t *testing.T) *Recorder {
	t.Helper()
	r, _, _ := newRecorder(t, nil)
	r.evidence.outbound.Sockets = func() ([]host.UDPSocket, error) {
		return []host.UDPSocket{{Port: 11211}, {Port: 161, Peer: netip.MustParseAddr("203.0.113.9")}}, nil
	}
	r.evidence.outbound.LocalPorts = func() (uint16, uint16, error) { return 32768, 60999, nil }
	r.evidence.outbound.Tracks = func() bool { return false }
	r.SetListed(blocks("203.0.113.9/32", "198.51.100.0/24"))
	return r
}

// observed passes packets of a source to r, one at each of the times after t0, like the observer
// and Run. It returns the numbers of packets that go into reports and into the history.
func observed(
	r *Recorder, t0 time.Time, source string, protocol sensor.Protocol, port uint16, after ...time.Duration,
) (reported, kept uint64) {
	for _, d := range after {
		k := sensor.Key{Source: netip.MustParseAddr(source), Port: port, Protocol: protocol, Kind: sensor.Attempt}
		hits := []sensor.Hit{{Key: k, Packets: 1, First: t0.Add(d), Last: t0.Add(d)}}
		hits = r.evidence.add(hits, t0.Add(d)).Hits
		rows, waiting := r.rows(hits)
		for range 2 { // a transaction that failed is tried again
			rows, waiting = r.rows(hits)
		}
		for _, r := range rows {
			if !r.Silent {
				reported += r.Packets
			}
			if !r.Held {
				kept += r.Packets
			}
		}
		r.evidence.settle(rows, waiting)
	}
	return reported, kept
}

// TestInnocentSourcesAreNotReported checks that an address that the API lists is reported from its
// first connection attempt, and any other source after three packets over more than a second, with
// all of its packets. A datagram is reported only if it cannot be an answer.
func TestInnocentSourcesAreNotReported(t *testing.T) {
	t.Parallel()
	ms := func(ns ...int) (ds []time.Duration) {
		for _, n := range ns {
			ds = append(ds, time.Duration(n)*time.Millisecond)
		}
		return ds
	}
	const single, neighbour, own, unlisted = "203.0.113.9", "198.51.100.7", "192.0.2.9", "192.0.2.77"
	tests := []struct {
		name     string
		source   string
		protocol sensor.Protocol
		port     uint16
		after    []time.Duration
		want     uint64
	}{
		{"OK a listed address, one SYN", single, sensor.TCP, 22, ms(0), 1},
		{"OK a listed address, one SYN to no service", single, sensor.TCP, 51820, ms(0), 1},
		{"bad one forged SYN of a listed network", neighbour, sensor.TCP, 22, ms(0), 0},
		{"bad three at once", neighbour, sensor.TCP, 22, ms(0, 0, 1), 0},
		{"bad many within a second", neighbour, sensor.TCP, 22, ms(0, 100, 200, 300, 400, 500, 1000), 0},
		{"bad two, far apart", neighbour, sensor.TCP, 22, ms(0, 60_000), 0},
		{"OK three over more than a second", neighbour, sensor.TCP, 22, ms(0, 600, 1300), 3},
		{"OK SYNs that are sent again", neighbour, sensor.TCP, 22, ms(0, 1000, 3000, 7000), 4},
		{"bad on the operator's list alone", own, sensor.TCP, 22, ms(0, 1000, 3000, 7000), 0},
		{"bad on no list", unlisted, sensor.TCP, 22, ms(0, 1000, 3000, 7000), 0},
		{"bad one ping", single, sensor.ICMP, 0, ms(0), 0},
		{"OK pings", single, sensor.ICMP, 0, ms(0, 1000, 2000), 3},
		{"bad one datagram", single, sensor.UDP, 53, ms(0), 0},
		{"OK datagrams to a service", single, sensor.UDP, 53, ms(0, 1000, 2000), 3},
		{"bad UDP-Lite", single, sensor.UDPLite, 53, ms(0, 1000, 2000, 3000), 0},
		{"bad WireGuard", single, sensor.UDP, 51820, ms(0, 1000, 2000, 3000), 0},
		{"bad mosh", single, sensor.UDP, 60001, ms(0, 1000, 2000, 3000), 0},
		{"bad WebRTC", single, sensor.UDP, 45112, ms(0, 1000, 2000, 3000), 0},
		{"bad DHT", single, sensor.UDP, 6881, ms(0, 1000, 2000, 3000), 0},
		{"bad a service within the local ports", single, sensor.UDP, 33060, ms(0, 1000, 2000, 3000), 0},
		{"bad this host has a socket there", single, sensor.UDP, 11211, ms(0, 1000, 2000, 3000), 0},
		{"bad this host sends to it from there", single, sensor.UDP, 161, ms(0, 1000, 2000, 3000), 0},
		{"OK this host sends to another from there", "198.51.100.8", sensor.UDP, 161, ms(0, 1000, 2000), 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reported, kept := observed(witness(t), time.Now(), tt.source, tt.protocol, tt.port, tt.after...)
			if reported != tt.want || kept != uint64(len(tt.after)) {
				t.Errorf("reported %d packets and kept %d; want %d and %d", reported, kept, tt.want, len(tt.after))
			}
		})
	}
}

// TestClosedSocket checks that a socket counts for some minutes after it is closed. If the sockets
// cannot be read, every port may have one.
func TestClosedSocket(t *testing.T) {
	t.Parallel()
	r, now := witness(t), time.Now()
	o := &r.evidence.outbound
	o.update(nil, now)
	o.Sockets = func() ([]host.UDPSocket, error) { return nil, nil }
	o.update(nil, now.Add(time.Minute))
	peer := netip.MustParseAddr("203.0.113.9")
	if o.isService(11211, peer, now.Add(time.Minute)) {
		t.Error("a minute later it is forgotten")
	}
	o.update(nil, now.Add(time.Hour))
	if !o.isService(11211, peer, now.Add(time.Hour)) {
		t.Error("it is never forgotten")
	}
	o.Sockets = func() ([]host.UDPSocket, error) { return nil, errors.New("no /proc") }
	o.update(nil, now.Add(2*time.Hour))
	if o.isService(11211, peer, now.Add(2*time.Hour)) {
		t.Error("sockets that cannot be read count as absent")
	}
}

// TestNewSocket checks that a socket counts from its first answer, also on a host where a reading
// of all sockets takes so long that readings are rare. Datagrams to a service are reported there as
// elsewhere.
func TestNewSocket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const source, took = "203.0.113.9", 100 * time.Millisecond
		r, reads := witness(t), 0
		var open []host.UDPSocket
		o := &r.evidence.outbound
		o.Sockets = func() ([]host.UDPSocket, error) {
			reads++
			time.Sleep(took)
			return open, nil
		}
		now := time.Now()
		seconds := func(after ...float64) (ds []time.Duration) {
			for _, s := range after {
				ds = append(ds, time.Duration(s*float64(time.Second)))
			}
			return ds
		}
		observed(r, now, source, sensor.TCP, 22, seconds(0, 1, 2)...)
		if reads != 1 {
			t.Errorf("the sockets were read %d times in two seconds without datagrams, want once", reads)
		}
		observed(r, now, source, sensor.UDP, 53, seconds(2.5)...) // the sockets are read again
		open = []host.UDPSocket{{Port: 5060}}
		if n, _ := observed(r, now, source, sensor.UDP, 5060, seconds(3, 3.5, 4.2, 6, 8, 10)...); n != 0 {
			t.Errorf("%d answers to a new socket are reported", n)
		}
		n, _ := observed(r, now.Add(time.Minute), source, sensor.UDP, 53, seconds(0, 3, 6, 9)...)
		if n != 5 { // with the one before
			t.Errorf("%d of 5 datagrams to a service are reported", n)
		}
		before := reads
		now = now.Add(2 * time.Minute)
		for ms := range 1000 { // datagrams as fast as they may come
			observed(r, now, source, sensor.UDP, 53, time.Duration(ms)*time.Millisecond)
		}
		if n := reads - before; n < 1 || time.Duration(n-1)*doubtShare*took > time.Second {
			t.Errorf("the sockets were read %d times in a second, %v each", n, took)
		}
	})
}

// TestTrackedConnections checks that a kernel that tracks connections decides which side began, for
// any sockets. A datagram for which the kernel does not answer is not reported.
func TestTrackedConnections(t *testing.T) {
	t.Parallel()
	const source = "203.0.113.9"
	began := map[netip.Addr]bool{netip.MustParseAddr(source): true}
	for name, tt := range map[string]struct {
		peers func() (map[netip.Addr]bool, error)
		want  uint64
	}{
		"OK a source that began":       {func() (map[netip.Addr]bool, error) { return nil, nil }, 4},
		"bad this host began":          {func() (map[netip.Addr]bool, error) { return began, nil }, 0},
		"bad there are too many flows": {func() (map[netip.Addr]bool, error) { return nil, host.ErrFlows }, 0},
	} {
		r := witness(t)
		r.evidence.outbound.Tracks, r.evidence.outbound.Peers = func() bool { return true }, tt.peers
		times := []time.Duration{0, 2 * time.Second, 4 * time.Second, 6 * time.Second}
		if n, _ := observed(r, time.Now(), source, sensor.UDP, 11211, times...); n != tt.want {
			t.Errorf("%s: %d packets are reported, want %d", name, n, tt.want)
		}
	}
	// The entry of a flow ends half a minute after its last datagram; answers that come later are
	// still answers.
	r, now := witness(t), time.Now()
	known := began
	r.evidence.outbound.Tracks = func() bool { return true }
	r.evidence.outbound.Peers = func() (map[netip.Addr]bool, error) { return known, nil }
	observed(r, now, source, sensor.UDP, 53, 0)
	known = nil
	if n, _ := observed(r, now, source, sensor.UDP, 53, time.Minute, 2*time.Minute, 3*time.Minute); n != 0 {
		t.Errorf("%d packets of answers are reported", n)
	}
}

// TestPreviousListIsHeldAsADifference checks that no second list is held after a refresh.
func TestPreviousListIsHeldAsADifference(t *testing.T) {
	t.Parallel()
	var e evidence
	e.setListed(blocks("203.0.113.1/32", "203.0.113.2/32", "198.51.100.0/24"))
	e.setListed(blocks("203.0.113.1/32", "203.0.113.3/32", "198.51.100.0/25"))
	if got := fmt.Sprint(e.gone.Prefixes()); got != "[198.51.100.0/24 203.0.113.2/32]" {
		t.Errorf("held of the previous list: %s", got)
	}
	for source, want := range map[string]string{
		"203.0.113.1": "203.0.113.1/32", "203.0.113.2": "203.0.113.2/32", "198.51.100.1": "198.51.100.0/25",
		"198.51.100.200": "198.51.100.0/24", "203.0.113.4": "invalid Prefix",
	} {
		if p, ok := e.entry(netip.MustParseAddr(source)); p.String() != want || ok != p.IsValid() {
			t.Errorf("%s: got %v, %t, want %s", source, p, ok, want)
		}
	}
}

// TestPreviousList checks that the previous list still counts for packets that it dropped, and that
// no earlier list does.
func TestPreviousList(t *testing.T) {
	t.Parallel()
	var e evidence
	hit := sensor.Hit{Key: key(sensor.Attempt), Packets: 1}
	if e.judge(hit) != silent {
		t.Error("without a list it is reported")
	}
	e.setListed(blocks("203.0.113.9/32"))
	e.setListed(blocks("198.51.100.0/24"))
	e.setListed(blocks("198.51.100.0/24")) // applied once more
	if e.judge(hit) != certain {
		t.Error("the previous list does not count")
	}
	e.setListed(blocks("198.51.100.0/25"))
	if e.judge(hit) != silent {
		t.Error("an earlier list counts")
	}
}

// TestProofsAreBounded checks that forged sources cannot exceed the bounds of the proofs and of the
// hits that wait for them.
func TestProofsAreBounded(t *testing.T) {
	t.Parallel()
	r, now := witness(t), time.Now()
	r.SetListed(blocks("16.0.0.0/8"))
	for i := range 3 * maxProofs {
		source := netip.AddrFrom4([4]byte{16, byte(i >> 16), byte(i >> 8), byte(i)})
		k := sensor.Key{Source: source, Port: 22, Protocol: sensor.TCP}
		hits := []sensor.Hit{{Key: k, Packets: 1, First: now, Last: now}}
		r.evidence.add(hits, now)
		r.evidence.settle(nil, []store.Hit{{Source: k.Source}})
	}
	e := &r.evidence
	held := 0
	for _, m := range []map[netip.Addr]*proof{e.young, e.old} {
		for _, p := range m {
			held += len(p.held)
		}
	}
	if n := len(e.young) + len(e.old); n > 2*maxProofs || held > maxHeld || held != e.held {
		t.Errorf("%d proofs, %d hits wait and %d are counted; want %d and %d at most",
			n, held, e.held, 2*maxProofs, maxHeld)
	}
}

// TestHeldAreCounted checks that the count of hits that wait decreases when they are reported and
// when their source is forgotten, and not while more packets of the source come.
func TestHeldAreCounted(t *testing.T) {
	t.Parallel()
	r, now := witness(t), time.Now()
	e := &r.evidence
	const neighbour = "198.51.100.7"
	if observed(r, now, neighbour, sensor.TCP, 22, 0, time.Second); e.held != 2 {
		t.Errorf("%d hits wait, want 2", e.held)
	}
	if n, _ := observed(r, now, neighbour, sensor.TCP, 22, 2*time.Second); n != 3 || e.held != 0 {
		t.Errorf("%d packets are reported and %d hits wait, want 3 and none", n, e.held)
	}
	const other = "198.51.100.8"
	observed(r, now, other, sensor.TCP, 22, 0)
	observed(r, now.Add(proofFor+time.Hour), other, sensor.TCP, 22, 0) // two at most, far apart
	observed(r, now.Add(2*proofFor+2*time.Hour), "198.51.100.9", sensor.TCP, 22, 0)
	if e.held != 3 {
		t.Errorf("%d hits wait, want 3", e.held)
	}
	for i := range 2 {
		observed(r, now.Add(time.Duration(4+i)*(proofFor+time.Hour)), "198.51.100.10", sensor.TCP, 22, 0)
	}
	if e.held != 2 {
		t.Errorf("%d hits wait when their sources are forgotten, want 2", e.held)
	}
}

// TestHitsThatWaitedAreReported checks that the packets that came before a source was proven are in
// the queue once, with those that prove it and the later ones.
func TestHitsThatWaitedAreReported(t *testing.T) {
	t.Parallel()
	db := store.New(store.Options{Dir: t.TempDir()})
	t.Cleanup(func() { _ = db.Close() })
	w := witness(t)
	r, _, _ := newRecorder(t, db)
	r.evidence.outbound = outbound{Outbound: w.evidence.outbound.Outbound, portName: portName}
	r.SetListed(blocks("198.51.100.0/24"))
	k := sensor.Key{Source: netip.MustParseAddr("198.51.100.7"), Port: 22, Protocol: sensor.TCP, Kind: sensor.Attempt}
	began := time.Now().Add(-time.Minute)
	for i := range 4 {
		at := began.Add(time.Duration(i) * time.Second)
		r.Add(sensor.Window{Hits: []sensor.Hit{{Key: k, Packets: 1, First: at, Last: at}}}, at)
		r.record(true)
		if n, err := db.Queued(t.Context()); err != nil || i < 2 && n > 0 {
			t.Errorf("after %d packets %d rows are queued, %v", i+1, n, err)
		}
	}
	rows, err := db.Batch(t.Context(), 10)
	n := uint64(0)
	for _, row := range rows {
		n += row.Packets
	}
	if err != nil || n != 4 {
		t.Errorf("%d packets are queued, %v; want 4", n, err)
	}
}

// TestOnlyCertainTimeProves checks that packets whose times are bounds prove a source only by the
// time that is certainly between them.
func TestOnlyCertainTimeProves(t *testing.T) {
	t.Parallel()
	began := time.Now()
	at := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	k := sensor.Key{Source: netip.MustParseAddr("198.51.100.7"), Port: 22, Protocol: sensor.TCP, Kind: sensor.Attempt}
	event := func(s float64) sensor.Hit { return sensor.Hit{Key: k, Packets: 1, First: at(s), Last: at(s)} }
	counted := func(n uint64, from, to float64) sensor.Hit {
		within := at(to).Sub(at(from))
		return sensor.Hit{Key: k, Packets: n, First: at(from), Last: at(to), FirstWithin: within, LastWithin: within}
	}
	for name, tt := range map[string]struct {
		hits []sensor.Hit
		want bool
	}{
		"bad many in one reading":                     {[]sensor.Hit{counted(100, 0, 5)}, false},
		"bad many after an event, in one reading":     {[]sensor.Hit{event(1), counted(100, 1, 5)}, false},
		"bad many in two readings in a row":           {[]sensor.Hit{counted(100, 0, 5), counted(100, 5, 9)}, false},
		"bad two, far apart":                          {[]sensor.Hit{event(0), counted(1, 5, 6)}, false},
		"OK an event and a reading that begins later": {[]sensor.Hit{event(0), counted(2, 5, 6)}, true},
		"OK readings with time in between": {
			[]sensor.Hit{counted(2, 0, 1), counted(2, 1, 2), counted(1, 3, 4)}, true,
		},
	} {
		r := witness(t)
		r.SetListed(blocks("198.51.100.0/24"))
		var w sensor.Window
		for _, h := range tt.hits {
			w = r.evidence.add([]sensor.Hit{h}, h.Last)
		}
		if _, ok := r.evidence.proven(k.Source); ok != tt.want || len(w.Hits) != 1 {
			t.Errorf("%s: proven %v, want %v", name, ok, tt.want)
		}
	}
}
