package sensor

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const (
	group    = 100
	patience = 20 * time.Second
)

var (
	server4 = netip.MustParseAddr("192.0.2.1")
	server6 = netip.MustParseAddr("2001:db8::1")
)

// host is a server that logs and drops packets from the documentation networks, and an attacker
// that sends from them.
type host struct {
	*nettest.NS
	tb     testing.TB
	sender *nettest.Sender
}

func newHost(tb testing.TB) *host {
	tb.Helper()
	server, attacker := nettest.New(tb), nettest.New(tb)
	nettest.Link(server, attacker, "sg0",
		[]netip.Prefix{netip.PrefixFrom(server4, 24), netip.PrefixFrom(server6, 64)},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	server.Run("nft", `
		add table inet t
		add counter inet t seen
		add chain inet t c { type filter hook prerouting priority raw; }
		add rule inet t c ip saddr 203.0.113.0/24 log group 100 snaplen 128 counter name seen drop
		add rule inet t c ip6 saddr 2001:db8:ffff::/48 log group 100 snaplen 128 counter name seen drop`)
	return &host{NS: server, tb: tb, sender: nettest.NewSender(tb, attacker, server, "sg0")}
}

// open opens a sensor in the namespace of the server and closes it at the end of the test.
func (h *host) open(s *Sensor) {
	h.tb.Helper()
	var err error
	h.Do(func() { err = s.Open() })
	if err != nil {
		h.tb.Fatal(err)
	}
	h.tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			h.tb.Error(err)
		}
	})
}

// knock sends n packets for port 23 from source4.
func (h *host) knock(n int) {
	for range n {
		h.sender.SYN(netip.AddrPortFrom(source4, 4000), netip.AddrPortFrom(server4, 23))
	}
}

// await waits until ok returns true. The queue of the kernel alone delays events by up to 100 ms.
func await(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// accounted waits until n packets were received or are known to be lost.
func accounted(tb testing.TB, s *Sensor, n uint64) {
	tb.Helper()
	await(tb, "all packets to be accounted for", func() bool { t := s.Totals(); return t.Events+t.Lost >= n })
}

// settle sends one more packet at a time until the last loss shows, and returns the number of
// packets sent so far. A gap shows only with the next event, and none comes before the full receive
// buffer was read.
func (h *host) settle(s *Sensor, sent uint64) uint64 {
	h.tb.Helper()
	var next time.Time
	await(h.tb, "all packets to be accounted for", func() bool {
		if t := s.Totals(); t.Events+t.Lost >= sent {
			return true
		}
		if now := time.Now(); now.After(next) { // the last packet had time to arrive
			next = now.Add(250 * time.Millisecond)
			h.knock(1)
			sent++
		}
		return false
	})
	return sent
}

// TestCounts sends packets of every kind and expects each of them in the window.
func TestCounts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := New(Options{Group: group})
	h.open(s)
	ctx, cancel := context.WithCancel(t.Context())
	runC := make(chan error, 1)
	go func() { runC <- s.Run(ctx) }()

	other4, other6 := netip.MustParseAddr("203.0.113.200"), netip.MustParseAddr("2001:db8:ffff::200")
	at := netip.AddrPortFrom
	for range 500 {
		h.sender.SYN(at(source4, 4000), at(server4, 23))
		h.sender.UDP(at(other6, 4000), at(server6, 5353), strings.Repeat("more than the snap length ", 8))
	}
	for range 300 {
		h.sender.UDP(at(other4, 4000), at(server4, 53), "x")
		h.sender.SYN(at(source6, 4000), at(server6, 443))
	}
	for range 70 {
		h.sender.Ping(source4, server4)
		h.sender.Ping(source6, server6)
	}
	h.sender.Raw(server4, ipv4(packet4(GRE, 0, 0, 0, 0, 0x08, 0)))
	h.sender.Raw(server6, ipv6(packet6(60, join(pad(extension(UDP, 0x0104)), pad(ports(9)))...)))
	h.sender.Raw(server6, ipv6(packet6(132, pad(ports(36412))...)))
	const sent = 2*500 + 2*300 + 2*70 + 3
	accounted(t, s, sent)
	want := Window{
		Hits: []Hit{
			{Key: Key{source4, 23, TCP, Attempt}, Packets: 500},
			{Key: Key{other6, 5353, UDP, Attempt}, Packets: 500},
			{Key: Key{other4, 53, UDP, Attempt}, Packets: 300},
			{Key: Key{source6, 443, TCP, Attempt}, Packets: 300},
			{Key: Key{source4, 0, ICMP, Attempt}, Packets: 70},
			{Key: Key{source6, 0, ICMPv6, Attempt}, Packets: 70},
			{Key: Key{source4, 0, GRE, Other}, Packets: 1},
			{Key: Key{source6, 9, UDP, Attempt}, Packets: 1},
			{Key: Key{source6, 36412, SCTP, Other}, Packets: 1},
		},
		Events: sent,
	}
	if diff := cmp.Diff(want, s.Take(), cmpWindow); diff != "" {
		t.Errorf("window (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Totals{Events: sent}, s.Totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-runC; err != nil {
		t.Errorf("run until cancelled: %v", err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("run after the end: no error")
	}
}

// ipv4 completes a packet of packet4 so that the kernel accepts it.
func ipv4(b []byte) []byte {
	b[2], b[3], b[8] = 0, byte(len(b)), 64
	copy(b[16:], server4.AsSlice())
	var sum uint32
	for i := 0; i < header4Len; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum + sum>>16)
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}

// ipv6 completes a packet of packet6.
func ipv6(b []byte) []byte {
	b[5], b[7] = byte(len(b)-header6Len), 64
	copy(b[24:], server6.AsSlice())
	return b
}

// TestSnapLen sends a chain of extension headers that is longer than the part the kernel copies.
func TestSnapLen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := New(Options{Group: group})
	h.open(s)
	options := join([]byte{byte(TCP), 11, 1, 92}, make([]byte, 92)) // 96 bytes: the ports are at 136
	h.sender.Raw(server6, ipv6(packet6(60, join(options, pad(ports(22)))...)))
	accounted(t, s, 1)
	want := Window{Hits: []Hit{{Key: Key{source6, 0, TCP, Other}, Packets: 1}}, Events: 1}
	if diff := cmp.Diff(want, s.Take(), cmpWindow); diff != "" {
		t.Errorf("window (-want +got):\n%s", diff)
	}
}

func TestGroupTaken(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first, second, elsewhere := New(Options{Group: group}), New(Options{Group: group}), New(Options{Group: group + 1})
	h.open(first)
	var err error
	h.Do(func() { err = second.Open() })
	if !errors.Is(err, ErrGroupTaken) {
		t.Errorf("second listener on the group: got %v, want ErrGroupTaken", err)
	}
	if err := second.Close(); err != nil {
		t.Errorf("close a sensor that could not be opened: %v", err)
	}
	h.open(elsewhere) // another group is free
	newHost(t).open(New(Options{Group: group}))
	h.knock(3)
	accounted(t, first, 3) // the first still receives
	if err := first.Open(); err == nil {
		t.Error("open twice: no error")
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	h.open(second) // free as soon as the first is closed
	h.knock(2)
	accounted(t, second, 2)
	if n := first.Totals().Events; n != 3 {
		t.Errorf("events after close: got %d, want 3", n)
	}
}

// TestGroupTakenForAMoment closes a sensor while a process that is being started still has a copy
// of its socket. The kernel says that the group is taken, and frees it a moment later.
func TestGroupTakenForAMoment(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first, second := New(Options{Group: group}), New(Options{Group: group})
	h.open(first)
	raw, err := first.listener.nf.Con.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if cerr := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil ||
		err != nil {
		t.Fatal(cerr, err)
	}
	// As if the library had no chance to unbind before the socket was closed.
	if err := first.listener.nf.Con.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	var why error
	h.Do(func() { why = diagnose(group) })
	if !errors.Is(why, ErrGroupTaken) {
		t.Fatalf("with a copy of the socket: got %v, want ErrGroupTaken", why)
	}
	time.AfterFunc(takenLimit/4, func() { _ = unix.Close(fd) })
	h.open(second)
	h.knock(2)
	accounted(t, second, 2)
}

func TestNoPermission(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := New(Options{Group: group})
	var err error
	h.Do(func() { // the thread ends with the function, and the lack of capabilities with it
		if err = dropCapabilities(); err == nil {
			err = s.Open()
		}
	})
	if !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("open without capabilities: got %v, want ErrPermission", err)
	}
	h.open(s)
}

// dropCapabilities drops all capabilities of the calling thread.
func dropCapabilities() error {
	var none [2]unix.CapUserData
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

// TestOverrun does not read while 50,000 packets arrive. The number of lost packets is exact from
// the first one on.
func TestOverrun(t *testing.T) {
	t.Parallel()
	const burst = 50_000
	h := newHost(t)
	s := New(Options{Group: group})
	s.buffer = 64 << 10
	h.open(s)
	s.tally.mu.Lock() // the goroutine of the library waits to count the first event
	h.knock(burst)
	s.tally.mu.Unlock()
	await(t, "the overrun", func() bool { return s.Totals().Overruns > 0 })
	first := s.Take()
	if first.Exact() {
		t.Errorf("a window with an overrun is exact: %+v", counted(first))
	}
	sent := h.settle(s, burst)
	second := s.Take()
	got := s.Totals()
	if got.Events+got.Lost != sent || got.Lost == 0 || got.Events == 0 {
		t.Errorf("totals %+v: events and lost are %d, want %d", got, got.Events+got.Lost, sent)
	}
	if second.Exact() && second.Lost > 0 || first.Lost+second.Lost != got.Lost ||
		first.Events+second.Events != got.Events {
		t.Errorf("windows %+v and %+v do not make %+v", counted(first), counted(second), got)
	}
	h.knock(10)
	accounted(t, s, sent+10)
	if w := s.Take(); !w.Exact() || w.Events != 10 {
		t.Errorf("window afterwards: %+v, want 10 events, exact", counted(w))
	}
	t.Logf("%+v", got)
}

// counted returns w without its hits, for printing.
func counted(w Window) Window {
	w.Hits = nil
	return w
}

// TestReopen breaks the socket. Run returns an error, a new binding continues, and the windows in
// between are not exact.
func TestReopen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := New(Options{Group: group})
	h.open(s)
	runC := make(chan error, 1)
	go func() { runC <- s.Run(t.Context()) }()
	h.knock(5)
	accounted(t, s, 5)
	if err := s.listener.nf.Con.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-runC; err == nil || !strings.Contains(err.Error(), "receive NFLOG events") {
		t.Errorf("run with a broken socket: got %v, want an error", err)
	}
	h.knock(7) // not received
	if w := s.Take(); w.Exact() || w.Events != 5 {
		t.Errorf("window of the break: %+v, want 5 events, not exact", counted(w))
	}
	h.open(s)
	h.knock(2)
	accounted(t, s, 7)
	if w := s.Take(); w.Exact() || w.Events != 2 || w.Lost != 0 {
		t.Errorf("window of the new binding: %+v, want 2 events, not exact", counted(w))
	}
	h.knock(1)
	accounted(t, s, 8)
	if w := s.Take(); !w.Exact() || w.Events != 1 {
		t.Errorf("window after: %+v, want 1 event, exact", counted(w))
	}
}

// TestOpenUnderLoad opens the sensor while events arrive. Now and then the library mistakes one for
// a reply; Open still succeeds.
func TestOpenUnderLoad(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			h.knock(100)
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	s := New(Options{Group: group})
	for i := range 100 {
		var err error
		h.Do(func() { err = s.Open() })
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			t.Fatalf("open and close number %d: %v", i, err)
		}
	}
}

// TestCloseWaits checks the behaviour of the library on which listener depends: its goroutine logs
// when it ends.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := New(Options{Group: group})
	for i := range 20 {
		h.open(s)
		h.knock(i % 3)
		l := s.listener
		select {
		case <-l.doneC:
			t.Fatal("ended before it was closed")
		default:
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-l.doneC:
		default:
			t.Fatalf("the library did not log its end within %v", closeWait)
		}
	}
}

// TestRunEnds checks the other ways in which Run ends.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	s := New(Options{Group: group})
	if err := s.Close(); err != nil {
		t.Errorf("close a sensor that was never opened: %v", err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("run a sensor that was never opened: no error")
	}
	h := newHost(t)
	h.open(s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("run with a context that has ended: %v", err)
	}
	h.open(s)
	runC := make(chan error, 1)
	go func() { runC <- s.Run(t.Context()) }()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-runC; err != nil && !errors.Is(err, errNotOpen) { // either of the two may come first
		t.Errorf("run until closed: %v", err)
	}
}
