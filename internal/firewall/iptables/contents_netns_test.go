package iptables

import (
	"context"
	"errors"
	"hash/maphash"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestWatchReportsExchangedElements exchanges elements of the sets and keeps their number. Watch
// reports the difference, Verify returns it until the list is applied again, and Watch does not
// report a list that is right.
func TestWatchReportsExchangedElements(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "nft")
	rs := desired(
		list("4.4.4.0/24", "5.5.5.5/32", "203.0.113.9/32", "203.0.113.66/32",
			"2001:db8:f::1/128", "2001:db8:e::/48", "::/96"),
		list("10.0.0.0/8"))
	for i := range 100 { // more than the samples
		a := netip.AddrFrom4([4]byte{203, 0, 114, byte(2 * i)})
		rs.Block = rs.Block.Union(list(a.String() + "/32"))
	}
	apply := func() { mustApply(t, h, f, rs) }
	apply()
	h.Do(func() { // active as applied
		for range 2 {
			f.contents.due = time.Time{}
			if _, err := f.poll(t.Context()); err != nil {
				t.Errorf("nothing was exchanged: %v", err)
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	lostC, doneC := make(chan error, 16), make(chan error, 1)
	go func() {
		var err error
		h.Do(func() { err = f.Watch(ctx, func(err error) { lostC <- err }) })
		doneC <- err
	}()
	defer func() {
		cancel()
		if err := <-doneC; err != nil {
			t.Errorf("watch: %v", err)
		}
	}()
	for _, harm := range []string{
		"del sikkerguard-blocklist 203.0.113.66\nadd sikkerguard-blocklist 9.9.9.9\n",
		"del sikkerguard-blocklist 203.0.113.66\nadd sikkerguard-blocklist 203.0.113.66 nomatch\n",
		"del sikkerguard-blocklist6 2001:db8:f::1\nadd sikkerguard-blocklist6 2001:db8:f::2\n",
		"del sikkerguard-whitelist 10.0.0.0/8\nadd sikkerguard-whitelist 203.0.0.0/16\n",
	} {
		h.Run("sh", "-c", "printf '"+harm+"' | ipset restore")
		select {
		case err := <-lostC:
			if !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%q: Watch reported %v, want %v", harm, err, ruleset.ErrMismatch)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q: not noticed", harm)
		}
		h.Do(func() {
			if _, err := f.Verify(); !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%q: verify: %v", harm, err)
			}
		})
		apply()
		h.Check("put right", nettest.Addrs("203.0.113.66", "2001:db8:f::1"), nettest.Addrs("203.0.113.8"))
	}
}

// TestDigestIgnoresOrderAlone feeds the digester the output of `ipset save` in pieces of any size.
// Any difference but that of order changes the digest.
func TestDigestIgnoresOrderAlone(t *testing.T) {
	t.Parallel()
	seed := maphash.MakeSeed()
	want := digestOf(seed, slices.Values([]netip.Prefix{
		netip.MustParsePrefix("1.2.3.4/32"), netip.MustParsePrefix("5.6.7.0/24"),
	}))
	for text, same := range map[string]bool{
		"create s hash:net family inet\nadd s 5.6.7.0/24\nadd s 1.2.3.4\n": true,
		"add s 1.2.3.4\nadd s 5.6.7.0/24":                                  true,
		"add s 1.2.3.4\n":                                                  false,
		"add s 1.2.3.4\nadd s 5.6.7.0/25\n":                                false,
		"add s 1.2.3.4\nadd s 5.6.7.0/24\nadd s 9.9.9.9\n":                 false,
		"add s 1.2.3.4\nadd s 5.6.7.0/24 nomatch\n":                        false,
		"add s 1.2.3.4\nadd s 5.6.7.0/24 timeout 7\n":                      false,
	} {
		for size := 1; size <= len(text); size++ {
			d := digester{seed: seed, head: []byte("add s ")}
			for rest := text; rest != ""; {
				n, err := d.Write([]byte(rest[:min(size, len(rest))]))
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			d.end()
			if (d.digest == want) != same {
				t.Errorf("%q in pieces of %d: same as wanted is %v, want %v", text, size, !same, same)
			}
		}
	}
}
