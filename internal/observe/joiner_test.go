package observe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

var cmpHits = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

// at returns the moment n seconds after the readings begin.
func at(n float64) time.Time {
	return time.Unix(1_800_000_000, 0).Add(time.Duration(n * float64(time.Second)))
}

// event returns h as an event at a moment.
func event(h sensor.Hit, when time.Time) sensor.Hit {
	h.Packets, h.First, h.Last = 1, when, when
	return h
}

// count returns a kernel's count of the packets of h.
func count(h sensor.Hit, class ruleset.HitClass, n uint64) ruleset.HitCount {
	k := ruleset.HitKey{Source: h.Source, Protocol: uint8(h.Protocol), Port: h.CountedBy, Class: class}
	if class == ruleset.Portless {
		k.Port = 0
	}
	return ruleset.HitCount{HitKey: k, Packets: n}
}

// sums returns the packets of hits by key.
func sums(w sensor.Window) map[sensor.Key]uint64 {
	by := map[sensor.Key]uint64{}
	for _, h := range w.Hits {
		by[h.Key] += h.Packets
	}
	return by
}

// TestKeysHaveTheKindOfTheirFirstPacket checks that the packets of a key become hits of the kind and
// port that the key shows, or else its first event, and that the event is not added to the count.
func TestKeysHaveTheKindOfTheirFirstPacket(t *testing.T) {
	t.Parallel()
	src := source(1)
	key := func(p sensor.Protocol, kind sensor.Kind, port uint16) sensor.Key {
		return sensor.Key{Source: src, Port: port, Protocol: p, Kind: kind}
	}
	hit := func(by uint16, k sensor.Key) sensor.Hit { return sensor.Hit{Key: k, CountedBy: by} }
	answer := hit(443, key(sensor.TCP, sensor.Answer, 443))
	under := hit(50_000, key(sensor.TCP, sensor.Other, 22))
	dns := hit(40_000, key(sensor.UDP, sensor.Answer, 53))
	ping, pong := hit(8<<8, key(sensor.ICMP, sensor.Attempt, 0)), hit(0, key(sensor.ICMP, sensor.Answer, 0))
	gre := hit(0, key(sensor.GRE, sensor.Other, 0))
	syn, d := knock(src, 22), datagram(src, 161)
	type packets = map[sensor.Key]uint64
	for name, tt := range map[string]struct {
		event *sensor.Hit
		count ruleset.HitCount
		want  packets
	}{
		"OK SYN":           {new(syn), count(syn, ruleset.Knock, 7), packets{syn.Key: 7}},
		"OK SYN, no event": {nil, count(syn, ruleset.Knock, 7), packets{syn.Key: 7}},
		"OK answers":       {new(answer), count(answer, ruleset.Reply, 5), packets{answer.Key: 5}},
		"OK answers after a later packet of a connection": {
			new(hit(3128, key(sensor.TCP, sensor.Other, 5000))), count(hit(3128, answer.Key), ruleset.Reply, 5),
			packets{key(sensor.TCP, sensor.Other, 5000): 1, key(sensor.TCP, sensor.Answer, 3128): 4},
		},
		"OK connection under way": {new(under), count(under, ruleset.Reply, 5), packets{under.Key: 5}},
		"OK datagrams":            {new(d), count(d, ruleset.Knock, 3), packets{d.Key: 3}},
		"OK replies to datagrams": {new(dns), count(dns, ruleset.Knock, 3), packets{dns.Key: 3}},
		"OK pings by type":        {new(ping), count(ping, ruleset.Reply, 3), packets{ping.Key: 3}},
		"OK answers to pings":     {new(pong), count(pong, ruleset.Reply, 3), packets{pong.Key: 3}},
		"OK answers after a ping": {new(ping), count(pong, ruleset.Reply, 3), packets{pong.Key: 3}},
		"OK ICMP of any type": {
			new(ping), count(ping, ruleset.Portless, 3), packets{ping.Key: 1, key(sensor.ICMP, sensor.Other, 0): 2},
		},
		"OK a protocol without ports": {new(gre), count(gre, ruleset.Portless, 3), packets{gre.Key: 3}},
		"OK a full set": {
			new(syn), count(syn, ruleset.Portless, 3), packets{syn.Key: 1, key(sensor.TCP, sensor.Other, 0): 2},
		},
		"OK a source alone": {
			new(syn),
			ruleset.HitCount{HitKey: ruleset.HitKey{Source: src, Class: ruleset.Portless}, Packets: 3},
			packets{syn.Key: 1, key(0, sensor.Other, 0): 2},
		},
		"bad two events of a key with one packet": {new(twice(syn)), count(syn, ruleset.Knock, 1), packets{syn.Key: 1}},
		"bad an event without a count": {
			new(syn), count(knock(source(2), 22), ruleset.Knock, 1), packets{knock(source(2), 22).Key: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j joiner
			if tt.event != nil {
				e := event(*tt.event, at(0.5))
				e.Packets = max(1, tt.event.Packets)
				j.add(sensor.Window{Hits: []sensor.Hit{e}, Events: 1})
			}
			if diff := cmp.Diff(tt.want, sums(j.join([]ruleset.HitCount{tt.count}, at(0), at(1))), cmpHits); diff != "" {
				t.Errorf("first (-want +got):\n%s", diff)
			}
			again := sums(j.join([]ruleset.HitCount{tt.count}, at(1), at(2)))
			var n uint64
			for k, packets := range again {
				if n += packets; k.Kind == sensor.Attempt && tt.want[k] == 0 {
					t.Errorf("later packets are %+v", k)
				}
			}
			if n != tt.count.Packets || j.waits() {
				t.Errorf("later %d packets, want %d", n, tt.count.Packets)
			}
		})
	}
}

func twice(h sensor.Hit) sensor.Hit {
	h.Packets = 2
	return h
}

// TestCountWaitsForItsEvent checks that a count whose kind only an event shows waits for one more
// reading, and that it is then of the kind Other, which is never reported.
func TestCountWaitsForItsEvent(t *testing.T) {
	t.Parallel()
	d := datagram(source(1), 53)
	counts := []ruleset.HitCount{count(d, ruleset.Knock, 2)}
	other := d.Key
	other.Kind = sensor.Other

	var j joiner
	if w := j.join(counts, at(0), at(1)); len(w.Hits) > 0 || !j.waits() {
		t.Errorf("before the event: %+v", w.Hits)
	}
	j.add(sensor.Window{Hits: []sensor.Hit{event(d, at(1.1))}, Events: 1})
	if diff := cmp.Diff(map[sensor.Key]uint64{d.Key: 2}, sums(j.join(nil, at(1), at(2))), cmpHits); diff != "" {
		t.Errorf("with the event (-want +got):\n%s", diff)
	}

	var lost joiner
	lost.join(counts, at(0), at(1))
	if diff := cmp.Diff(map[sensor.Key]uint64{other: 2}, sums(lost.join(nil, at(1), at(2))), cmpHits); diff != "" {
		t.Errorf("without the event (-want +got):\n%s", diff)
	}
	lost.join(counts, at(2), at(3))
	if diff := cmp.Diff(map[sensor.Key]uint64{other: 2}, sums(lost.flush()), cmpHits); diff != "" || lost.waits() {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
}

// TestTimesAreOfEventsOrReadings checks that a first packet has the time of its event, and that the
// times of the others are bounds.
func TestTimesAreOfEventsOrReadings(t *testing.T) {
	t.Parallel()
	d := knock(source(1), 22)
	var j joiner
	j.add(sensor.Window{Hits: []sensor.Hit{event(d, at(0.5))}, Events: 1})
	first := j.join([]ruleset.HitCount{count(d, ruleset.Knock, 1)}, at(0), at(1))
	next := j.join([]ruleset.HitCount{count(d, ruleset.Knock, 4)}, at(1), at(3))
	j.add(sensor.Window{Hits: []sensor.Hit{event(d, at(3.5))}, Events: 1})
	again := j.join([]ruleset.HitCount{count(d, ruleset.Knock, 4)}, at(3), at(4))
	late := knock(source(2), 22)
	j.add(sensor.Window{Hits: []sensor.Hit{event(late, at(5.1))}, Events: 1})
	delayed := j.join([]ruleset.HitCount{count(late, ruleset.Knock, 1)}, at(4), at(5))
	for name, tt := range map[string]struct {
		w                     sensor.Window
		first, by, from, last time.Time
	}{
		"one packet":                            {first, at(0.5), at(0.5), at(0.5), at(0.5)},
		"later packets":                         {next, at(1), at(3), at(1), at(3)},
		"first packet of a key, and later ones": {again, at(3.5), at(3.5), at(3.5), at(4)},
		"an event after the reading":            {delayed, at(5), at(5), at(5), at(5)},
	} {
		w := tt.w.With(sensor.Window{})
		h := w.Hits[0]
		if len(w.Hits) != 1 || !h.First.Equal(tt.first) || !h.FirstBy().Equal(tt.by) ||
			!h.LastFrom().Equal(tt.from) || !h.Last.Equal(tt.last) {
			t.Errorf("%s: first from %v by %v, last from %v by %v", name, h.First, h.FirstBy(), h.LastFrom(), h.Last)
		}
	}
}

// TestPacketsWithoutAKeyAreCountedByTheirEvents checks that events of packets that no key has are
// added to the counts.
func TestPacketsWithoutAKeyAreCountedByTheirEvents(t *testing.T) {
	t.Parallel()
	syn := knock(source(1), 22)
	alone := event(syn, at(0.5))
	alone.Packets, alone.Alone = 3, true
	var j joiner
	j.add(sensor.Window{Hits: []sensor.Hit{alone, event(syn, at(0.6))}, Events: 4})
	if n := j.withoutKey(); n != 3 {
		t.Errorf("%d packets without a key", n)
	}
	w := j.join([]ruleset.HitCount{count(syn, ruleset.Knock, 5)}, at(0), at(1))
	if diff := cmp.Diff(map[sensor.Key]uint64{syn.Key: 8}, sums(w), cmpHits); diff != "" || j.waits() {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
	if h := w.Hits[0]; !h.First.Equal(at(0.5)) || h.FirstWithin != 0 {
		t.Errorf("from %v within %v", h.First, h.FirstWithin)
	}
}

// TestEventsAloneAreHits checks that the events and their losses are kept for a kernel that does not
// count by key.
func TestEventsAloneAreHits(t *testing.T) {
	t.Parallel()
	var j joiner
	j.add(sensor.Window{Hits: []sensor.Hit{event(knock(source(1), 22), at(0))}, Events: 1})
	j.add(sensor.Window{Hits: []sensor.Hit{event(knock(source(1), 22), at(1))}, Events: 1, Lost: 3})
	w := j.alone().With(sensor.Window{})
	if w.Events != 2 || w.Lost != 3 || len(w.Hits) != 1 || w.Hits[0].Packets != 2 || w.Exact() || j.waits() {
		t.Errorf("got %+v", w)
	}
	for i := range maxEvents + 5 {
		j.add(sensor.Window{Hits: []sensor.Hit{event(knock(source(i), 22), at(2))}, Events: 1})
	}
	if w := j.alone(); len(w.Hits) != maxEvents || w.Overflow != 5 || w.Events != maxEvents+5 {
		t.Errorf("too many events: %d hits, overflow %d", len(w.Hits), w.Overflow)
	}
}

// TestHeldCountsOutliveTheCounting checks that counts which wait for an event become hits if the kernel
// counts by key no longer.
func TestHeldCountsOutliveTheCounting(t *testing.T) {
	t.Parallel()
	var j joiner
	j.join([]ruleset.HitCount{count(datagram(source(1), 53), ruleset.Knock, 2)}, at(0), at(1))
	j.add(sensor.Window{Hits: []sensor.Hit{event(knock(source(2), 22), at(2))}, Events: 1})
	if w := j.alone(); len(w.Hits) != 2 || w.Hits[1].Packets != 2 || j.waits() {
		t.Errorf("got %+v", w)
	}
}

// TestLabelsAreBounded checks that labels that are used stay, and that idle ones are forgotten, for
// lack of room or after a time.
func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	key := func(i int) ruleset.HitKey { return count(datagram(source(i), 53), ruleset.Knock, 1).HitKey }
	var l labels
	l.expire(at(0))
	for i := range 3 * maxLabels {
		l.put(key(i), datagram(source(i), 53).Key)
		if _, ok := l.of(key(0)); !ok {
			t.Fatalf("a label in use is forgotten after %d others", i)
		}
	}
	if n := len(l.young) + len(l.old); n > 2*maxLabels {
		t.Errorf("%d labels", n)
	}
	for i := range 3 {
		l.expire(at(0).Add(time.Duration(i) * (labelFor + time.Second)))
	}
	if n := len(l.young) + len(l.old); n != 0 {
		t.Errorf("%d labels are left", n)
	}
	for i := range maxLabels + 1 {
		l.put(count(knock(source(i), 22), ruleset.Knock, 1).HitKey, knock(source(i), 22).Key)
	}
	if n := len(l.young) + len(l.old); n != 0 {
		t.Errorf("%d labels of keys that show their kind", n)
	}
}
