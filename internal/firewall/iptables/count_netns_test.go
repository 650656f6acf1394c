package iptables

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestTallyNeverDecreases adds readings to a tally.
func TestTallyNeverDecreases(t *testing.T) {
	t.Parallel()
	var c tally
	for i, step := range []struct {
		reading *counter
		want    counter
	}{
		{nil, counter{}},
		{&counter{5, 500}, counter{5, 500}},
		{nil, counter{5, 500}},                // deleted
		{&counter{2, 200}, counter{7, 700}},   // and written again
		{&counter{2, 200}, counter{7, 700}},   //
		{&counter{0, 0}, counter{7, 700}},     // zeroed
		{&counter{9, 900}, counter{16, 1600}}, //
	} {
		if got := c.add(step.reading); got != step.want {
			t.Errorf("step %d: got %+v, want %+v", i, got, step.want)
		}
	}
}

// TestCountersDuringApply stops Apply just before it replaces the rules. Counters and Present
// answer meanwhile. No packet dropped meanwhile is missing afterwards or counted twice.
func TestCountersDuringApply(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			rs := bothFamilies()
			apply := func() { mustApply(t, h, f, rs) }
			send := func() {
				for range 20 {
					h.Send(nettest.Addrs("203.0.113.9")[0], "knock")
					h.Send(nettest.Addrs("2001:db8:f::1")[0], "knock")
				}
				h.Settle()
			}
			apply()
			send()
			for i := range f.families {
				real := f.families[i].restore
				var held, release func()
				f.families[i].restore, held, release = hold(t, real)
				rs.LogRate += 7 // other rules
				doneC := make(chan struct{})
				go func() {
					defer close(doneC)
					apply()
				}()
				held()
				answers(t, h, f, ruleset.Counters{Packets4: uint64(20 * (i + 1)), Packets6: uint64(20 * (i + 1))})
				send()
				answers(t, h, f, ruleset.Counters{Packets4: uint64(20 * (i + 1)), Packets6: uint64(20 * (i + 1))})
				release()
				<-doneC
				f.families[i].restore = real
				if n := count(t, h, f); n.Packets4 != uint64(20*(i+2)) || n.Packets6 != uint64(20*(i+2)) {
					t.Errorf("after Apply: %+v, want %d packets of each family", n, 20*(i+2))
				}
			}
		})
	}
}

// hold makes a program that waits before it runs the one at path. held returns once it was started,
// and release lets it continue.
func hold(t *testing.T, path string) (waits string, held, release func()) {
	t.Helper()
	dir := t.TempDir()
	heldFIFO, goFIFO := filepath.Join(dir, "held"), filepath.Join(dir, "go")
	for _, f := range []string{heldFIFO, goFIFO} {
		if err := unix.Mkfifo(f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	waits = program(t, dir, filepath.Base(path), "echo > "+heldFIFO+"; read -r _ < "+goFIFO+"; exec "+path+` "$@"`)
	held = func() {
		if _, err := os.ReadFile(heldFIFO); err != nil {
			t.Fatal(err)
		}
	}
	release = func() {
		if err := os.WriteFile(goFIFO, []byte("\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return waits, held, release
}

// answers fails if Counters, Present or Info do not answer while an Apply is stopped, or if the
// counters are below least.
func answers(t *testing.T, h *nettest.Host, f *Firewall, least ruleset.Counters) {
	t.Helper()
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		n := count(t, h, f)
		if n.Packets4 < least.Packets4 || n.Packets6 < least.Packets6 || n.Packets() > least.Packets()+40 {
			t.Errorf("during Apply: %+v, want %+v and at most 40 packets more", n, least)
		}
		h.Do(func() {
			if err := f.Present(); err != nil {
				t.Error(err)
			}
		})
		_ = f.Info()
	}()
	select {
	case <-doneC:
	case <-time.After(20 * time.Second):
		t.Fatal("no answer during Apply")
	}
}

func count(t *testing.T, h *nettest.Host, f *Firewall) ruleset.Counters {
	t.Helper()
	var n ruleset.Counters
	var err error
	h.Do(func() { n, err = f.Counters() })
	if err != nil {
		t.Errorf("counters: %v", err)
	}
	return n
}

// TestCountersAfterFailure makes the program that writes the rules fail, after or before it wrote
// them. The counters count no packet twice and lose none.
func TestCountersAfterFailure(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			rs := desired(list("203.0.113.9/32"), list())
			apply := func() (err error) {
				h.Do(func() { _, err = f.Apply(t.Context(), rs) })
				return err
			}
			sent := uint64(0)
			send := func(n uint64) {
				for range n {
					h.Send(nettest.Addrs("203.0.113.9")[0], "knock")
				}
				h.Settle()
				sent += n
			}
			counted := func(when string) {
				t.Helper()
				if n := count(t, h, f); n.Packets4 != sent {
					t.Errorf("%s: counted %+v, want %d packets", when, n, sent)
				}
			}
			if err := apply(); err != nil {
				t.Fatal(err)
			}
			real, rules := f.families[0].restore, "iptables-"+kind
			dir := t.TempDir()
			for name, text := range map[string]string{"after": real + ` "$@"; exit 4`, "before": "exit 4"} {
				send(20)
				counted(name)
				h.Run(rules, "-t", "raw", "-Z")
				send(1)
				counted(name + ", zeroed")
				h.Run(rules, "-t", "raw", "-F", chain)
				f.families[0].restore = program(t, dir, name, text)
				if err := apply(); err == nil {
					t.Errorf("%s: apply: no error", name)
				}
				counted(name + ", failed")
				f.families[0].restore = real
				if err := apply(); err != nil {
					t.Errorf("%s: apply: %v", name, err)
				}
				counted(name + ", again")
				send(3)
				counted(name + ", more")
			}
		})
	}
}

// TestCountersNeverDecrease reads the counters all the time while rules are replaced and packets
// arrive. In the end they are equal to the packets sent.
func TestCountersNeverDecrease(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			rs := bothFamilies()
			apply := func() {
				rs.LogRate += 7
				mustApply(t, h, f, rs)
			}
			apply()
			flood := h.Flood(nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
			stopC := make(chan struct{})
			var asking sync.WaitGroup
			for range 2 {
				asking.Go(func() {
					var last ruleset.Counters
					for {
						select {
						case <-stopC:
							return
						default:
						}
						n := count(t, h, f)
						if n.Packets4 < last.Packets4 || n.Packets6 < last.Packets6 ||
							n.Bytes4 < last.Bytes4 || n.Bytes6 < last.Bytes6 {
							t.Errorf("from %+v to %+v", last, n)
						}
						last = n
					}
				})
			}
			for i := range 6 {
				apply()
				if i%3 == 2 {
					h.Run("iptables-"+kind, "-t", "raw", "-D", "PREROUTING", "1") // first the chain is put back
				}
			}
			apply()
			close(stopC)
			asking.Wait()
			sent := uint64(flood.Stop())
			h.Settle()
			if n := count(t, h, f); n.Packets() > sent || n.Packets6 != sent/2 {
				t.Errorf("counted %+v of %d packets", n, sent)
			}
		})
	}
}
