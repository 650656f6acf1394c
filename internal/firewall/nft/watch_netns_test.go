package nft

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestPresent deletes or disables the table or its base chain: Present reports each at once. It
// does not wait for the lock of a change.
func TestPresent(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner
	h.apply(list("203.0.113.9"), list())
	present := func() (err error) {
		h.Do(func() { err = h.table.Present() })
		return err
	}
	h.table.mu.Lock()
	err := present()
	h.table.mu.Unlock()
	if err != nil {
		t.Fatalf("active table: %v", err)
	}
	for _, change := range []string{
		"delete table inet sikkerguard", "flush ruleset", "add table inet sikkerguard { flags dormant; }",
		"delete chain inet sikkerguard prerouting",
		"delete chain inet sikkerguard prerouting; add chain inet sikkerguard prerouting",
		"delete chain inet sikkerguard prerouting; " +
			"add chain inet sikkerguard prerouting { type filter hook input priority -300; }",
	} {
		if strings.HasPrefix(change, "delete chain") {
			h.Run("nft", "flush chain inet sikkerguard prerouting")
		}
		h.Run("nft", change)
		if err := present(); !errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("%s: got %v, want %v", change, err, ruleset.ErrMismatch)
		}
		h.apply(list("203.0.113.9"), list())
		if err := present(); err != nil {
			t.Errorf("restored after %s: %v", change, err)
		}
	}
}

// TestWatch changes a table that other programs may change: Watch reports each change within about
// a second, and no change of another table.
func TestWatch(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner
	block := list("203.0.113.9", "45.9.20.0/24")
	h.apply(block, list())
	ctx, cancel := context.WithCancel(t.Context())
	lostC, doneC := make(chan error, 16), make(chan error, 1)
	go func() {
		var err error
		h.Do(func() { err = h.table.Watch(ctx, func(err error) { lostC <- err }) })
		doneC <- err
	}()
	h.Run("nft", "add table inet other")
	h.apply(list("203.0.113.9", "45.9.20.0/24", "5.6.7.8"), list("10.0.0.0/8")) // the agent's own change
	h.apply(block, list())
	time.Sleep(2 * watchInterval)
	select {
	case err := <-lostC:
		t.Errorf("nothing was lost: %v", err)
	default:
	}
	for _, change := range []string{
		"delete table inet sikkerguard", "flush ruleset", "flush set inet sikkerguard blocklist4_24",
		"flush chain inet sikkerguard blocked4",
	} {
		h.Run("nft", change)
		start := time.Now()
		select {
		case err := <-lostC:
			if !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%s: got %v, want %v", change, err, ruleset.ErrMismatch)
			}
			t.Logf("%s: noticed after %v: %v", change, time.Since(start), err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not noticed", change)
		}
		h.apply(block, list())
		h.Check("repaired after "+change,
			nettest.Addrs("203.0.113.9", "45.9.20.1"), nettest.Addrs("203.0.113.8"))
	}
	for len(lostC) > 0 { // a change may be reported twice
		if err := <-lostC; err == nil {
			t.Error("lost called without an error")
		}
	}
	h.Do(func() { // the agent stops
		if err := h.table.Disarm(); err != nil {
			t.Errorf("disarm: %v", err)
		}
	})
	time.Sleep(2 * watchInterval)
	if len(lostC) > 0 {
		t.Errorf("lost called for the agent's own Disarm: %v", <-lostC)
	}
	cancel()
	if err := <-doneC; err != nil {
		t.Errorf("watch: %v", err)
	}
}

// TestWatchEvery checks that a table which no other program can change is read seldom, and any other
// one twice within the second in which the docs promise that a change is noticed.
func TestWatchEvery(t *testing.T) {
	t.Parallel()
	owned := (&Table{flags: nftables.TableFlagOwner | nftables.TableFlagPersist}).watchEvery()
	open := (&Table{flags: nftables.TableFlagPersist}).watchEvery()
	if owned < time.Second || open > time.Second/2 {
		t.Errorf("a table with an owner is read every %v, one without every %v", owned, open)
	}
}
