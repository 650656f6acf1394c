package observe

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// run runs o until stop, and calls each every 100 ms meanwhile.
func run(t *testing.T, o *Observer, k *toyKernel, stop time.Duration, each func(n int)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stop)
	defer cancel()
	doneC := make(chan error, 1)
	go func() { doneC <- o.Run(ctx) }()
	for n := range int(stop / (100 * time.Millisecond)) {
		k.mu.Lock()
		each(n)
		k.mu.Unlock()
		time.Sleep(100*time.Millisecond - time.Nanosecond) // never at the moment of a tick
		synctest.Wait()
	}
	if err := <-doneC; err != nil {
		t.Error(err)
	}
	o.Finish()
}

// TestQuietSourcesBesideAFlood checks that 100 sources of a packet a second are in the hits with
// each of their packets, beside a source of 200,000 a second that probes many ports.
func TestQuietSourcesBesideAFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, logs, b := newTestObserver(t, k)
		noisy := source(1 << 20)
		run(t, o, k, 20*time.Second, func(n int) {
			k.limit = 100 // 1,000 a second
			k.drop(knock(noisy, 22), 20_000)
			for i := range 300 {
				k.drop(knock(noisy, uint16(300*n+i)), 1)
			}
			for i := range 10 {
				k.drop(knock(source(n%10*10+i), 23), 1)
			}
		})
		for i := range 100 {
			by := b.by[knock(source(i), 23).Key] + b.by[sensor.Key{Source: source(i), Protocol: sensor.TCP, Kind: sensor.Other}]
			if by != 20 {
				t.Errorf("source %d has %d packets, want 20", i, by)
			}
		}
		if b.packets != k.dropped {
			t.Errorf("%d packets of %d are in the hits", b.packets, k.dropped)
		}
		var s status.Status
		if o.Fill(&s); s.Events.Seen != k.dropped || s.Unattributed != 0 || o.inexact {
			t.Errorf("%+v of %d packets", s.Events, k.dropped)
		}
		if n := logs.FilterMessageSnippet("BLOCKED 45.0.").Len(); n < 96 { // two windows of 50 lines
			t.Errorf("the quiet sources have %d lines", n)
		}
	})
}

// TestFloodOfManySources checks that each of 50,000 sources is in the hits, with exact sums, though
// the limit of the log rule lets few of their first packets through.
func TestFloodOfManySources(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, _, b := newTestObserver(t, k)
		const sources = 50_000
		run(t, o, k, 6*time.Second, func(n int) {
			k.limit = 1_000
			for i := range 20_000 {
				k.drop(knock(source((20_000*n+i)%sources), 22), 1)
			}
		})
		var s status.Status
		if o.Fill(&s); b.packets != k.dropped || s.Events.Seen != k.dropped || s.Events.Overflow != 0 || o.inexact {
			t.Errorf("%d packets of %d are in the hits, %+v", b.packets, k.dropped, s.Events)
		}
		found := map[netip.Addr]bool{}
		for key := range b.by {
			found[key.Source] = true
		}
		if len(found) != sources {
			t.Errorf("%d sources of %d are in the hits", len(found), sources)
		}
	})
}

// TestSumsAreExactWhateverHappens checks, for random traffic, limits, losses, failures and rotations
// of the sets, that the hits and the packets that are not attributed are exactly the packets dropped.
func TestSumsAreExactWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 14))
			k := newToyKernel()
			k.size = 40 + r.IntN(200)
			o, _, b := newTestObserver(t, k)
			run(t, o, k, 35*time.Second, func(int) {
				k.limit, k.alone, k.silent = r.IntN(20), r.IntN(300), r.IntN(10) == 0
				k.delay = time.Duration(r.IntN(1500)) * time.Millisecond
				k.takes = time.Duration(r.IntN(300)) * time.Millisecond
				if k.err = nil; r.IntN(20) == 0 {
					k.err = errors.New("interrupted")
				}
				if r.IntN(50) == 0 {
					k.forget()
				}
				for range r.IntN(60) {
					src := source(r.IntN(200))
					k.drop([]sensor.Hit{
						knock(src, uint16(20+r.IntN(4))),
						datagram(src, 53),
						{Key: sensor.Key{Source: src, Protocol: sensor.ICMP, Kind: sensor.Attempt}, CountedBy: 8 << 8},
						{Key: sensor.Key{Source: src, Protocol: sensor.GRE, Kind: sensor.Other}},
						{Key: sensor.Key{Source: src, Protocol: sensor.TCP, Kind: sensor.Other, Port: 22}, CountedBy: 50_000},
					}[r.IntN(5)], 1+r.IntN(30))
				}
			})
			k.err = nil
			o.Finish()
			var s status.Status
			o.Fill(&s)
			if b.packets+s.Unattributed != k.dropped || s.Events.Seen != b.packets || s.Events.Unattributed != s.Unattributed {
				t.Errorf("seed %d: %d packets in hits and %d not attributed are %d, want %d; %+v",
					seed, b.packets, s.Unattributed, b.packets+s.Unattributed, k.dropped, s.Events)
			}
			var services uint64
			for _, n := range s.Hits {
				services += n
			}
			if services != b.packets {
				t.Errorf("seed %d: %d packets by service, want %d", seed, services, b.packets)
			}
		})
	}
}

// TestNothingCame checks that a quiet agent does not read the keys and passes no hits on.
func TestNothingCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, logs, b := newTestObserver(t, k)
		k.drop(knock(source(1), 22), 3)
		run(t, o, k, time.Minute, func(int) {})
		if k.reads != 1 || b.packets != 3 || logs.Len() != 1 {
			t.Errorf("%d readings of the keys, %d packets, %d lines; want 1, 3 and 1", k.reads, b.packets, logs.Len())
		}
		if h := b.hits[0]; b.calls < 60 || h.Last.Sub(h.First) > collectEvery {
			t.Errorf("%d calls of the sink; the hit is of %v", b.calls, h.Last.Sub(h.First))
		}
	})
}

// TestIdleTimeIsNotPartOfAHit checks that packets that come after a pause have the times of the
// readings around them, and not that of the reading before the pause.
func TestIdleTimeIsNotPartOfAHit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, _, b := newTestObserver(t, k)
		began := time.Now()
		run(t, o, k, time.Minute, func(n int) {
			if n == 0 || n == 305 {
				k.drop(knock(source(1), 22), 1)
			}
		})
		if len(b.hits) != 2 {
			t.Fatalf("hits: %+v", b.hits)
		}
		if h := b.hits[1]; h.First.Sub(began) < 29*time.Second || h.Last.Sub(h.First) > 2*collectEvery {
			t.Errorf("the second packet came from %v to %v", h.First.Sub(began), h.Last.Sub(began))
		}
	})
}

// TestReadingsTakeATenthOfTheTime checks that long readings of the keys are spaced, and that a window
// has one at its end nevertheless.
func TestReadingsTakeATenthOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		k.takes = 240 * time.Millisecond
		o, logs, _ := newTestObserver(t, k)
		const total = 5 * time.Minute
		run(t, o, k, total, func(int) { k.drop(knock(source(1), 22), 1) })
		if most := int(total/(keysShare*k.takes)) + 2; k.reads > most || k.reads < most/2 {
			t.Errorf("%d readings of %v in %v, want at most %d", k.reads, k.takes, total, most)
		}
		if n := logs.FilterMessageSnippet("BLOCKED").Len(); n < 30 {
			t.Errorf("%d windows of 30 have a line", n)
		}
	})
}

// TestLateEventsHideNothing checks that a packet that was missed until its late event came does not hide
// another that is missed later.
func TestLateEventsHideNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		k.size, k.alone = 0, 1
		o, _, b := newTestObserver(t, k)
		k.drop(knock(source(1), 22), 1)
		k.events[0].First = time.Now().Add(time.Second)
		for i, inexact := range []bool{true, false, true, false} {
			if i == 2 {
				k.drop(knock(source(2), 22), 1) // beyond the log rate
			}
			o.finish(false)
			if o.inexact != (inexact || k.full) {
				t.Errorf("window %d: inexact %t", i, o.inexact)
			}
			time.Sleep(windowLength)
		}
		var s status.Status
		if o.Fill(&s); b.packets != 1 || s.Events.Unattributed != 1 || s.Unattributed != 1 {
			t.Errorf("%d packets in hits, %+v, %d not attributed", b.packets, s.Events, s.Unattributed)
		}
	})
}

// TestPauseIsBounded checks that readings at the end of each window that take long, as in an attack of
// hours, delay the readings after it by a minute at most.
func TestPauseIsBounded(t *testing.T) {
	t.Parallel()
	var p pace
	now := at(0)
	for range 360 {
		now = now.Add(windowLength)
		p.took(now.Add(-3*time.Second), now)
	}
	if p.due(now.Add(keysShare*3*time.Second-time.Nanosecond)) || !p.due(now.Add(longestPause)) {
		t.Errorf("the next reading may begin %v after the last", p.next.Sub(now))
	}
}

// TestUnreadKeysAreTold checks that keys that cannot be read at the end of a window are reported, and
// that their packets are logged when they can be read again.
func TestUnreadKeysAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, _, b := newTestObserver(t, k)
		var told []error
		o.reader.unread = func(err error) { told = append(told, err) }
		k.drop(knock(source(1), 22), 1)
		o.collect(false)
		k.err = errors.New("interrupted")
		k.drop(knock(source(1), 22), 5)
		o.collect(false)
		if len(told) != 1 || told[0] != nil {
			t.Errorf("before the end of the window: %v", told)
		}
		o.finish(false)
		if len(told) != 2 || told[1] == nil || !o.inexact {
			t.Errorf("at the end of the window: %v, inexact %v", told, o.inexact)
		}
		k.err = nil
		o.collect(false)
		if len(told) != 3 || told[2] != nil || b.packets != 6 {
			t.Errorf("afterwards: %v, %d packets", told, b.packets)
		}
	})
}

// TestNewSourcesAreNamedFirst checks that a window names sources that no line has named before those
// that were, and each source once before the further ports of any.
func TestNewSourcesAreNamedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, logs, _ := newTestObserver(t, k)
		noisy := source(1 << 20)
		window := func() (sources []string) {
			for i := range 100 {
				k.drop(knock(noisy, uint16(8000+i)), 100)
			}
			o.finish(false)
			for _, l := range logs.TakeAll() {
				if src, ok := l.ContextMap()["source"].(string); ok {
					sources = append(sources, src)
				}
			}
			return sources
		}
		if got := window(); len(got) != maxLines {
			t.Errorf("%d lines about one source", len(got))
		}
		for i := range 30 {
			k.drop(knock(source(i), 22), 1+i)
		}
		got := window()
		var want []string
		for i := range 30 {
			want = append(want, source(29-i).String())
		}
		for range maxLines - 30 {
			want = append(want, noisy.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sources of the lines (-want +got):\n%s", diff)
		}
		for i := range 70 {
			k.drop(knock(source(i), 22), 10)
		}
		got = window()
		if first := strings.Join(got[:40], " "); strings.Contains(first, source(0).String()+" ") {
			t.Errorf("sources that were named before come before new ones: %v", first)
		}
		if again := len(got); again != maxLines {
			t.Errorf("%d lines", again)
		}
	})
}

// TestPortScanIsNamed checks that a window names a new source whose hits have one packet each beside
// more new sources than it has lines, each of which has more packets to its one port.
func TestPortScanIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newToyKernel()
		o, logs, _ := newTestObserver(t, k)
		scanner := source(1 << 20)
		for i := range 300 {
			k.drop(knock(source(i), 22), 3)
			k.drop(knock(scanner, uint16(1000+i)), 1)
		}
		o.finish(false)
		lines := logs.FilterMessageSnippet("BLOCKED").All()
		if src := lines[0].ContextMap()["source"]; src != scanner.String() || len(lines) != maxLines+1 {
			t.Errorf("the first of %d lines is about %v, want the scan of %v", len(lines), src, scanner)
		}
		named := map[any]bool{}
		for _, l := range lines[:maxLines] {
			named[l.ContextMap()["source"]] = true
		}
		if len(named) != maxLines {
			t.Errorf("%d lines name %d sources", maxLines, len(named))
		}
	})
}
