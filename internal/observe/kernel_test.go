package observe

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// toyKernel drops packets and counts them by key, or logs each of them. It is the Sensor, the
// Counter and the Keys of an Observer.
type toyKernel struct {
	mu sync.Mutex // held by its methods except drop and forget, and by run; guards all fields

	plain  bool          // it does not count by key
	limit  int           // new keys with ports that it lets through to be logged, then none
	size   int           // keys of each class
	alone  int           // packets without a key that it lets through to be logged, then none
	delay  time.Duration // of an event
	silent bool          // its events are lost
	takes  time.Duration // for a reading of the keys
	err    error         // of a reading of the keys
	lost   uint64        // events that each Take misses

	countersErr error // of a reading of the counters

	dropped uint64
	counts  map[ruleset.HitKey]uint64
	known   map[ruleset.HitKey]bool
	classes map[ruleset.HitClass]int // keys
	full    bool
	events  []sensor.Hit
	reads   int // of the keys
}

// newToyKernel returns a kernel that counts by key, without limits.
func newToyKernel() *toyKernel {
	return &toyKernel{
		limit: 1 << 30, size: 1 << 30,
		counts: map[ruleset.HitKey]uint64{}, known: map[ruleset.HitKey]bool{}, classes: map[ruleset.HitClass]int{},
	}
}

// drop drops n packets like h.
func (k *toyKernel) drop(h sensor.Hit, n int) {
	for range n {
		k.dropped++
		key := keyOf(h)
		if k.plain {
			k.log(h)
			continue
		}
		switch {
		case k.known[key]:
		case k.limit > 0 && k.room(key):
			k.limit--
			k.log(h)
		default:
			key.Class, key.Port = ruleset.Portless, 0
			if !k.known[key] && !k.room(key) {
				if h.Alone = true; k.alone > 0 {
					k.alone--
					k.log(h)
				}
				continue
			}
		}
		if !k.known[key] {
			k.known[key] = true
			k.classes[key.Class]++
		}
		k.counts[key]++
	}
}

// room reports whether the set of a new key has room for it.
func (k *toyKernel) room(key ruleset.HitKey) bool {
	if k.classes[key.Class] < k.size {
		return true
	}
	k.full = true
	return false
}

// forget empties the sets, as the kernel's rotation does. No count is lost.
func (k *toyKernel) forget() {
	clear(k.known)
	clear(k.classes)
}

func (k *toyKernel) log(h sensor.Hit) {
	if !k.silent {
		delay := k.delay
		if h.Alone { // an event that is a count is in time, as observe.eventDelay expects
			delay = min(delay, eventDelay-50*time.Millisecond)
		}
		h.Packets, h.First = 1, time.Now().Add(delay)
		h.Last = h.First
		k.events = append(k.events, h)
	}
}

func (k *toyKernel) Take() (w sensor.Window) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var later []sensor.Hit
	for _, e := range k.events {
		if e.First.After(time.Now()) {
			later = append(later, e)
			continue
		}
		w.Hits = append(w.Hits, e)
		w.Events++
	}
	k.events = later
	if w.Events > 0 {
		w.Lost = k.lost
		k.dropped += k.lost
	}
	return w
}

func (k *toyKernel) Read() (ruleset.Counters, error) {
	n := k.ReadSoon()
	k.mu.Lock()
	defer k.mu.Unlock()
	return n, k.countersErr
}

func (k *toyKernel) ReadSoon() ruleset.Counters {
	k.mu.Lock()
	defer k.mu.Unlock()
	return ruleset.Counters{Packets4: k.dropped}
}

func (k *toyKernel) Hits() (ruleset.Hits, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.plain {
		return ruleset.Hits{}, nil
	}
	takes := k.takes
	k.mu.Unlock()
	time.Sleep(takes)
	k.mu.Lock()
	k.reads++
	if k.err != nil {
		return ruleset.Hits{}, k.err
	}
	h := ruleset.Hits{Supported: true, Full: k.full}
	for key, n := range k.counts {
		h.Counts = append(h.Counts, ruleset.HitCount{HitKey: key, Packets: n})
	}
	clear(k.counts)
	k.full = false
	return h, nil
}

// book is a Sink that sums the hits by key.
type book struct {
	calls   int
	packets uint64
	by      map[sensor.Key]uint64
	hits    []sensor.Hit
}

func (b *book) Add(w sensor.Window, _ time.Time) {
	b.calls++
	for _, h := range w.Hits {
		if b.by == nil {
			b.by = map[sensor.Key]uint64{}
		}
		b.by[h.Key] += h.Packets
		b.packets += h.Packets
		b.hits = append(b.hits, h)
	}
}

// newTestObserver returns an Observer of k, its log, and the book that its hits go to.
func newTestObserver(tb testing.TB, k *toyKernel) (*Observer, *zapobserver.ObservedLogs, *book) {
	tb.Helper()
	core, logs := zapobserver.New(zap.InfoLevel)
	b := &book{}
	return New(Options{
		Sensor: k, Counter: k, Keys: k, Sinks: []Sink{b}, PortName: portName, LogRate: 1000, Fields: true,
		Unread: func(error) {}, Log: zap.New(core), Ticker: clock.NewTimeTicker,
	}), logs, b
}

// source returns the n-th of many addresses.
func source(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{45, byte(n >> 16), byte(n >> 8), byte(n)})
}

// knock returns a TCP connection request of a source.
func knock(src netip.Addr, port uint16) sensor.Hit {
	return sensor.Hit{Key: sensor.Key{Source: src, Port: port, Protocol: sensor.TCP}, CountedBy: port}
}

// datagram returns a UDP packet of a source.
func datagram(src netip.Addr, port uint16) sensor.Hit {
	return sensor.Hit{Key: sensor.Key{Source: src, Port: port, Protocol: sensor.UDP}, CountedBy: port}
}
