package sensor

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// cmpWindow compares windows including unexported fields.
var cmpWindow = cmp.Options{
	cmpAddr, cmp.AllowUnexported(Window{}), cmpopts.IgnoreFields(Hit{}, "First", "Last", "CountedBy"),
}

// counts compares windows without their hits.
var counts = cmp.Options{cmpWindow, cmpopts.IgnoreFields(Window{}, "Hits")}

func TestTallySums(t *testing.T) {
	t.Parallel()
	y := newTally(100)
	add := func(n int, packet []byte) {
		for range n {
			y.add(nil, &packet, false)
		}
	}
	add(1, packet4(UDP, 0, 0, ports(53)...))
	add(2, packet6(TCP, segment(23, syn)...))
	add(2, packet4(TCP, 0, 0, segment(80, syn)...))
	add(2, packet4(UDP, 0, 0, ports(23)...))
	add(2, packet4(TCP, 0, 0, segment(23, syn)...))
	add(3, packet4(ICMP, 0, 0))
	add(4, []byte{0x45})
	y.add(nil, nil, false)
	want := Window{
		Hits: []Hit{
			{Key: Key{source4, 0, ICMP, Other}, Packets: 3},
			{Key: Key{source4, 23, TCP, Attempt}, Packets: 2},
			{Key: Key{source4, 23, UDP, Attempt}, Packets: 2},
			{Key: Key{source4, 80, TCP, Attempt}, Packets: 2},
			{Key: Key{source6, 23, TCP, Attempt}, Packets: 2},
			{Key: Key{source4, 53, UDP, Attempt}, Packets: 1},
		},
		Events: 17, Unparsed: 5,
	}
	got := y.take()
	if diff := cmp.Diff(want, got, cmpWindow); diff != "" {
		t.Errorf("window (-want +got):\n%s", diff)
	}
	if got.Exact() {
		t.Error("a window with unparsed packets is exact")
	}
	empty := y.take()
	if diff := cmp.Diff(Window{}, empty, cmpWindow); diff != "" {
		t.Errorf("next window (-want +got):\n%s", diff)
	}
	if !empty.Exact() {
		t.Error("an empty window is not exact")
	}
	if diff := cmp.Diff(Totals{Events: 17, Unparsed: 5}, y.totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}

func TestTallySequence(t *testing.T) {
	t.Parallel()
	const last = math.MaxUint32
	tests := []struct {
		name   string
		next   uint32
		seqs   []uint32
		lost   uint64
		unsure bool
	}{
		{name: "OK no event"},
		{name: "OK none missing", seqs: []uint32{0, 1, 2}},
		{name: "OK wraps around", next: last - 1, seqs: []uint32{last - 1, last, 0, 1}},
		{name: "bad first missing", seqs: []uint32{2, 3}, lost: 2},
		{name: "bad one missing", seqs: []uint32{0, 2}, lost: 1},
		{name: "bad many missing", seqs: []uint32{0, 1_000_001}, lost: 1_000_000},
		{name: "bad missing across the wrap", next: last, seqs: []uint32{last, 4}, lost: 4},
		{name: "bad largest gap", seqs: []uint32{math.MaxInt32}, lost: math.MaxInt32},
		{name: "bad repeated number is no loss", seqs: []uint32{0, 1, 1, 2}, unsure: true},
		{name: "bad counter was reset", next: 900, seqs: []uint32{900, 0, 1, 3}, lost: 1, unsure: true},
		{name: "bad one back across the wrap", seqs: []uint32{last, 0}, unsure: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			y := newTally(1)
			y.start()
			y.next = tt.next
			packet := packet4(ICMP, 0, 0)
			for _, seq := range tt.seqs {
				y.add(&seq, &packet, false)
			}
			want := Window{Events: uint64(len(tt.seqs)), Lost: tt.lost, unsure: tt.unsure}
			got := y.take()
			if diff := cmp.Diff(want, got, counts); diff != "" {
				t.Errorf("window (-want +got):\n%s", diff)
			}
			if exact := tt.lost == 0 && !tt.unsure; got.Exact() != exact {
				t.Errorf("exact: got %v, want %v", got.Exact(), exact)
			}
		})
	}
}

// TestTallyOverrun has a loss at the end of a window. Only the next window shows its size.
func TestTallyOverrun(t *testing.T) {
	t.Parallel()
	y := newTally(1)
	y.start()
	packet := packet4(ICMP, 0, 0)
	y.add(new(uint32(0)), &packet, false)
	y.overrun()
	first := y.take()
	if diff := cmp.Diff(Window{Events: 1, unsure: true}, first, counts); diff != "" || first.Exact() {
		t.Errorf("window of the overrun: exact %v (-want +got):\n%s", first.Exact(), diff)
	}
	y.add(new(uint32(8)), &packet, false)
	second := y.take()
	if diff := cmp.Diff(Window{Events: 1, Lost: 7}, second, counts); diff != "" || second.Exact() {
		t.Errorf("window of the gap: exact %v (-want +got):\n%s", second.Exact(), diff)
	}
	y.add(new(uint32(9)), &packet, false)
	if third := y.take(); !third.Exact() {
		t.Errorf("window after: %+v is not exact", third)
	}
	if diff := cmp.Diff(Totals{Events: 3, Lost: 7, Overruns: 1}, y.totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}

// TestTallyDeaf has a broken socket. Windows are not exact until there is a new one, and neither is
// the window in which it opens.
func TestTallyDeaf(t *testing.T) {
	t.Parallel()
	y := newTally(1)
	y.start()
	y.next = 55
	y.stop()
	for i, want := range []bool{false, false, false, true} {
		if i == 2 {
			y.start()
			packet := packet4(ICMP, 0, 0)
			y.add(new(uint32(0)), &packet, false)
		}
		if w := y.take(); w.Exact() != want || w.Lost != 0 {
			t.Errorf("window %d: exact %v, lost %d, want %v and 0", i, w.Exact(), w.Lost, want)
		}
	}
}

// TestTallyOfANewSocket checks that the loss of the first events of a new socket is counted,
// however many events the old one had: the kernel numbers the events of each socket from 0.
func TestTallyOfANewSocket(t *testing.T) {
	t.Parallel()
	y := newTally(1)
	packet := packet4(ICMP, 0, 0)
	y.start()
	for seq := range uint32(5) {
		y.add(&seq, &packet, false)
	}
	y.stop()
	y.start()
	y.take() // includes the time without a socket
	y.add(new(uint32(2)), &packet, false)
	if w := y.take(); w.Lost != 2 || w.Exact() {
		t.Errorf("lost %d, exact %v; want 2 and false", w.Lost, w.Exact())
	}
	y.add(new(uint32(3)), &packet, false)
	if w := y.take(); w.Lost != 0 || !w.Exact() {
		t.Errorf("then lost %d, exact %v; want 0 and true", w.Lost, w.Exact())
	}
}

func TestTallyOverflow(t *testing.T) {
	t.Parallel()
	y := newTally(2)
	for _, p := range []uint16{1, 2, 3, 1, 3, 2, 2} {
		packet := packet4(TCP, 0, 0, segment(p, syn)...)
		y.add(nil, &packet, false)
	}
	want := Window{
		Hits: []Hit{
			{Key: Key{source4, 2, TCP, Attempt}, Packets: 3}, {Key: Key{source4, 1, TCP, Attempt}, Packets: 2},
		},
		Events: 7, Overflow: 2,
	}
	got := y.take()
	if diff := cmp.Diff(want, got, cmpWindow); diff != "" || got.Exact() {
		t.Errorf("full window: exact %v (-want +got):\n%s", got.Exact(), diff)
	}
	packet := packet4(TCP, 0, 0, segment(3, syn)...)
	y.add(nil, &packet, false)
	want = Window{Hits: []Hit{{Key: Key{source4, 3, TCP, Attempt}, Packets: 1}}, Events: 1}
	got = y.take()
	if diff := cmp.Diff(want, got, cmpWindow); diff != "" || !got.Exact() {
		t.Errorf("next window: exact %v (-want +got):\n%s", got.Exact(), diff)
	}
}

// TestTallyConserves takes windows while packets arrive. Each packet is counted exactly once.
func TestTallyConserves(t *testing.T) {
	t.Parallel()
	const senders, packets = 4, 20_000
	y := newTally(16)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for n := range packets {
				packet := packet4(TCP, 0, 0, ports(uint16(i*8+n%8+1))...)
				y.add(nil, &packet, false)
			}
		})
	}
	doneC := make(chan struct{})
	go func() { wg.Wait(); close(doneC) }()
	var sum, events uint64
	take := func() {
		w := y.take()
		events += w.Events
		sum += w.Overflow
		for _, h := range w.Hits {
			sum += h.Packets
		}
	}
	for more := true; more; {
		select {
		case <-doneC:
			more = false
		default:
		}
		take()
	}
	if want := uint64(senders * packets); sum != want || events != want || y.totals().Events != want {
		t.Errorf("hits and overflow, events, total: got %d %d %d, want %d", sum, events, y.totals().Events, want)
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	unsupp := unix.Errno(524) // ENOTSUPP, the answer of the kernel to a packet message
	tests := []struct {
		name                 string
		packet, config, want error
	}{
		{name: "OK group free", packet: unsupp, config: unix.ENODEV},
		{name: "OK group free, before Linux 4.4", packet: unsupp},
		{name: "bad no capability", packet: unix.EPERM, config: unix.EPERM, want: ErrPermission},
		{name: "bad group taken", packet: unsupp, config: unix.EPERM, want: ErrGroupTaken},
		{name: "bad no nfnetlink_log", packet: unix.EINVAL, config: unix.EINVAL, want: ErrUnsupported},
		{name: "bad no nfnetlink", packet: os.NewSyscallError("socket", unix.EPROTONOSUPPORT), want: ErrUnsupported},
		{name: "OK something else", packet: os.NewSyscallError("socket", unix.EMFILE)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, reason(tt.packet, tt.config), cmpopts.EquateErrors()); diff != "" {
				t.Errorf("reason (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddAllocatesNothing(t *testing.T) { // not parallel: AllocsPerRun counts the whole program
	y := newTally(64)
	packets := manyPackets(128) // half of them find no room
	for i := range packets {
		y.add(nil, &packets[i], false)
	}
	var seq uint32
	if n := testing.AllocsPerRun(1000, func() {
		y.add(&seq, &packets[seq%128], false)
		seq++
	}); n != 0 {
		t.Errorf("got %v allocations a packet, want 0", n)
	}
}

// manyPackets returns n packets of n sources.
func manyPackets(n int) [][]byte {
	ps := make([][]byte, n)
	for i := range ps {
		ps[i] = packet4(TCP, 0, 0, segment(23, syn)...)
		binary.BigEndian.PutUint32(ps[i][12:], 0x0b000000+uint32(i))
	}
	return ps
}

// BenchmarkAdd counts packets of n sources, with a window per second at 100,000 packets a second.
func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1, 5_000, 50_000, 500_000} {
		b.Run(fmt.Sprintf("sources=%d", n), func(b *testing.B) {
			packets := manyPackets(n)
			y := newTally(defaultMaxHits)
			y.start()
			var (
				seq       uint32
				sum, most uint64
			)
			take := func() {
				w := y.take()
				sum += w.Events
				most = max(most, uint64(len(w.Hits)))
				if w.Lost != 0 || w.Unparsed != 0 {
					b.Fatalf("lost or not read: %+v", w)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				y.add(&seq, &packets[int(seq)%n], false)
				if seq++; seq%100_000 == 0 {
					take()
				}
			}
			take()
			if sum != uint64(seq) || most > defaultMaxHits {
				b.Fatalf("got %d events and up to %d keys, want %d and at most %d", sum, most, seq, defaultMaxHits)
			}
		})
	}
}

func TestWindowWith(t *testing.T) {
	t.Parallel()
	hit := func(src string, port uint16, n uint64) Hit {
		return Hit{Key: Key{Source: netip.MustParseAddr(src), Port: port, Protocol: TCP}, Packets: n}
	}
	a := Window{Hits: []Hit{hit("203.0.113.9", 22, 5), hit("203.0.113.8", 23, 1)}, Events: 6}
	b := Window{Hits: []Hit{hit("203.0.113.8", 23, 7), hit("203.0.113.7", 80, 2)}, Events: 10, Lost: 1, Unparsed: 1}
	want := []Hit{hit("203.0.113.8", 23, 8), hit("203.0.113.9", 22, 5), hit("203.0.113.7", 80, 2)}
	for _, got := range []Window{a.With(b), b.With(a)} {
		if !slices.Equal(got.Hits, want) || got.Events != 16 || got.Lost != 1 || got.Unparsed != 1 || got.Exact() {
			t.Errorf("got %+v, want hits %+v", got, want)
		}
	}
	if got := (Window{}).With(a); !slices.Equal(got.Hits, a.Hits) || !got.Exact() {
		t.Errorf("empty with a: %+v", got)
	}
	many := Window{}
	for i := range maxKeys {
		many.Hits = append(many.Hits, Hit{
			Key:     Key{Source: netip.AddrFrom4([4]byte{5, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 22, Protocol: TCP},
			Packets: 2,
		})
	}
	if got := many.With(a); len(got.Hits) != maxKeys || got.Overflow != 6 || got.Exact() {
		t.Errorf("full: %d hits, overflow %d", len(got.Hits), got.Overflow)
	}
}

// TestTallyTimes checks that a hit has the times of its first and last packet, also if windows are
// added up, in any order.
func TestTallyTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		y := newTally(10)
		packet := packet4(TCP, 0, 0, segment(23, syn)...)
		var all, reverse Window
		for range 3 {
			time.Sleep(time.Minute)
			y.add(nil, &packet, false)
			time.Sleep(time.Second)
			y.add(nil, &packet, false)
			w := y.take()
			if h := w.Hits[0]; h.Last.Sub(h.First) != time.Second || h.Last.After(time.Now()) {
				t.Errorf("one window: from %v to %v", h.First.Sub(begin), h.Last.Sub(begin))
			}
			all, reverse = all.With(w), w.With(reverse)
		}
		for _, w := range []Window{all, reverse} {
			if h := w.Hits[0]; h.Packets != 6 || h.First.Sub(begin) != time.Minute ||
				h.Last.Sub(begin) != 3*time.Minute+3*time.Second {
				t.Errorf("all windows: %d packets from %v to %v", h.Packets, h.First.Sub(begin), h.Last.Sub(begin))
			}
		}
	})
}
