package lab

import (
	"io"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
)

// needRoot skips a test that makes network namespaces, or fails it if SIKKERGUARD_REQUIRE_NETNS=1.
func needRoot(t *testing.T, programs ...string) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "network namespaces need root"
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			why = err.Error()
		}
	}
	switch {
	case os.Getenv("SIKKERGUARD_REQUIRE_NETNS") == "never":
		t.Skip("SIKKERGUARD_REQUIRE_NETNS=never")
	case why == "":
	case os.Getenv("SIKKERGUARD_REQUIRE_NETNS") == "1":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

func closing(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// TestPeersBlockTheListAndNothingElse checks each peer with lists of each shape and both families:
// a peer that blocks nothing would look fast.
func TestPeersBlockTheListAndNothingElse(t *testing.T) {
	t.Parallel()
	needRoot(t, "nft", "ipset", "iptables", "ip6tables")
	type load func(*testing.T, *Host, *lists.List) (*XDP, error)
	peers := map[string]load{
		"none": func(*testing.T, *Host, *lists.List) (*XDP, error) { return nil, nil },
		"ipset": func(t *testing.T, h *Host, l *lists.List) (*XDP, error) {
			t.Helper()
			return nil, IPSet{}.Load(t.Context(), h, l)
		},
		"nft": func(t *testing.T, h *Host, l *lists.List) (*XDP, error) {
			t.Helper()
			return nil, NFT{}.Load(t.Context(), h, l)
		},
		"xdp": func(t *testing.T, _ *Host, l *lists.List) (*XDP, error) {
			t.Helper()
			x, err := NewXDP(l)
			if err == nil {
				closing(t, x)
			}
			return x, err
		},
	}
	for name, load := range peers {
		for _, shape := range []lists.Shape{lists.Mixed, lists.Addresses, lists.Odd} {
			for _, v6 := range []bool{false, true} {
				l := lists.New(shape, v6, 300, 1)
				sink, listed, unlisted := newTarget(t, l, func(h *Host) (*XDP, error) { return load(t, h, l) })
				want := 0
				if name == "none" {
					want = len(l.Entries)
				}
				if n, err := sink.Count(listed); err != nil || n != want {
					t.Errorf("%s, %s, v6=%v: %d listed sources get through, %v; want %d", name, shape, v6, n, err, want)
				}
				if n, err := sink.Count(unlisted); err != nil || n != 300 {
					t.Errorf("%s, %s, v6=%v: %d other sources get through, %v; want 300", name, shape, v6, n, err)
				}
			}
		}
	}
}

// newTarget returns a host with a firewall, and flows from listed and from other sources.
func newTarget(
	t *testing.T, l *lists.List, load func(*Host) (*XDP, error),
) (sink *Sink, listed, unlisted *Flow) {
	t.Helper()
	h, err := NewHost(false)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, h)
	x, err := load(h)
	if err != nil {
		t.Fatal(err)
	}
	if sink, err = h.NewSink(); err != nil {
		t.Fatal(err)
	}
	closing(t, sink)
	flow := func(from []netip.Addr) *Flow {
		f, err := h.NewFlow(Datagram, from, x)
		if err != nil {
			t.Fatal(err)
		}
		closing(t, f)
		return f
	}
	return sink, flow(l.Listed(300)), flow(l.Unlisted(300))
}

// TestRefreshOfPeers checks that the inputs of ipset and nft leave exactly the new list in force.
func TestRefreshOfPeers(t *testing.T) {
	t.Parallel()
	needRoot(t, "nft", "ipset", "iptables")
	before := lists.New(lists.Mixed, false, 300, 1)
	other := lists.New(lists.Mixed, false, 300, 2)
	after := other.Change(100, 3)
	for name, p := range map[string]struct {
		load interface {
			SwapText(l *lists.List) string
			ChangeText(from, to *lists.List) string
		}
		args []string
	}{"ipset": {IPSet{}, []string{"ipset", "restore"}}, "nft": {NFT{}, []string{"nft", "-f", "-"}}} {
		var host *Host
		sink, fromOld, _ := newTarget(t, before, func(h *Host) (*XDP, error) {
			host = h
			if name == "ipset" {
				return nil, IPSet{}.Load(t.Context(), h, before)
			}
			return nil, NFT{}.Load(t.Context(), h, before)
		})
		for _, text := range []string{p.load.SwapText(other), p.load.ChangeText(other, after)} {
			if _, err := host.Run(t.Context(), text, p.args[0], p.args[1:]...); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		fromNew, err := host.NewFlow(Datagram, after.Listed(300), nil)
		if err != nil {
			t.Fatal(err)
		}
		closing(t, fromNew)
		if n, err := sink.Count(fromOld); err != nil || n < 295 { // some may be in both lists
			t.Errorf("%s: %d of 300 sources of the old list get through, %v", name, n, err)
		}
		if n, err := sink.Count(fromNew); err != nil || n != 0 {
			t.Errorf("%s: %d of 300 sources of the new list get through, %v", name, n, err)
		}
	}
}

// TestIgnoreKeepsNothing checks that a Sink that ignores datagrams has nothing to read, and that a
// cost is measured.
func TestIgnoreKeepsNothing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	l := lists.New(lists.Addresses, false, 300, 1)
	sink, flow, _ := newTarget(t, l, func(*Host) (*XDP, error) { return nil, nil })
	if err := sink.Ignore(); err != nil {
		t.Fatal(err)
	}
	if n, err := sink.Count(flow); err != nil || n != 0 {
		t.Errorf("%d datagrams, %v; want none", n, err)
	}
	if ns, err := flow.Cost(1000, Single); err != nil || ns <= 0 {
		t.Errorf("cost %v, %v", ns, err)
	}
	if n, err := flow.Send(1000); err != nil || n < 1000 {
		t.Errorf("%d packets, %v; want 1000 or some more", n, err)
	}
}

// TestPaced checks the number of packets of a flood: each arrives.
func TestPaced(t *testing.T) {
	t.Parallel()
	needRoot(t)
	h, err := NewHost(false)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, h)
	sink, err := h.NewSink()
	if err != nil {
		t.Fatal(err)
	}
	closing(t, sink)
	l := lists.New(lists.Addresses, false, 300, 1)
	for _, v6 := range []bool{false, true} {
		if v6 {
			l = lists.New(lists.Addresses, true, 300, 1)
		}
		burst, err := h.NewBurst(Datagram, l.Listed(300))
		if err != nil {
			t.Fatal(err)
		}
		closing(t, burst)
		sent, err := burst.Paced(10_000, 100*time.Millisecond)
		if err != nil || sent != 1000 {
			t.Errorf("sent %d at 10,000 a second in 100 ms, %v", sent, err)
		}
		if n, err := sink.read(); err != nil || n != sent {
			t.Errorf("%d of %d packets arrived, %v", n, sent, err)
		}
	}
}

// TestProgram checks that the lines of a program are found, with their times.
func TestProgram(t *testing.T) {
	t.Parallel()
	needRoot(t)
	h, err := NewHost(false)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, h)
	start := time.Now()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "trap 'echo bye; exit 3' TERM; echo one; while :; do sleep 0.01; done")
	p, err := h.Launch(cmd, Others())
	if err != nil {
		t.Fatal(err)
	}
	at, err := p.Await(t.Context(), "one", start)
	if err != nil || at.Before(start) {
		t.Errorf("at %v, %v", at, err)
	}
	if m, err := Resident(p.PID()); err != nil || m.Now == 0 || m.Peak < m.Now {
		t.Errorf("memory %+v, %v", m, err)
	}
	if err := ResetPeak(p.PID()); err != nil {
		t.Error(err)
	}
	if n, err := WakeUps(p.PID(), 200*time.Millisecond); err != nil || n <= 0 {
		t.Errorf("a loop that sleeps wakes up %v times a second, %v", n, err)
	}
	if _, err := CPUTime(p.PID()); err != nil {
		t.Error(err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := p.Await(t.Context(), "bye", start); err != nil {
		t.Error(err)
	}
	if _, err := p.Await(t.Context(), "never", start); err == nil {
		t.Error("a line that does not come is no error when the program has ended")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := WakeUps(p.PID(), 0); err == nil {
		t.Error("a process that has ended has no wake-ups")
	}
}
