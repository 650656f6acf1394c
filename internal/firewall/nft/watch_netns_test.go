package nft

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestPresent: a look at the kernel tells at once that the table, its base chain or its effect is gone, and does not wait
// for who changes it.
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
		t.Fatalf("in force: %v", err)
	}
	for _, change := range []string{
		"delete table inet sikkerguard", "flush ruleset", "add table inet sikkerguard { flags dormant; }",
		"delete chain inet sikkerguard prerouting",
		"delete chain inet sikkerguard prerouting; add chain inet sikkerguard prerouting",
		"delete chain inet sikkerguard prerouting; add chain inet sikkerguard prerouting { type filter hook input priority -300; }",
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
			t.Errorf("put right after %s: %v", change, err)
		}
	}
}

// TestWatch changes the kernel underneath a table that others may change: each change is told within a second or so, and
// changes of other tables are not.
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
	h.apply(list("203.0.113.9", "45.9.20.0/24", "5.6.7.8"), list("10.0.0.0/8")) // our own change
	h.apply(block, list())
	time.Sleep(2 * watchInterval)
	select {
	case err := <-lostC:
		t.Errorf("nothing was lost: %v", err)
	default:
	}
	for _, change := range []string{
		"delete table inet sikkerguard", "flush ruleset", "flush set inet sikkerguard blocklist4_24", "flush chain inet sikkerguard blocked4",
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
		h.Check("repaired after "+change, nettest.Addrs("203.0.113.9", "45.9.20.1"), nettest.Addrs("203.0.113.8"))
	}
	for len(lostC) > 0 { // a change may be reported twice
		if err := <-lostC; err == nil {
			t.Error("the watch told of a loss without an error")
		}
	}
	h.Do(func() { // the agent stops
		if err := h.table.Disarm(); err != nil {
			t.Errorf("disarm: %v", err)
		}
	})
	time.Sleep(2 * watchInterval)
	if len(lostC) > 0 {
		t.Errorf("what the agent itself takes out is lost: %v", <-lostC)
	}
	cancel()
	if err := <-doneC; err != nil {
		t.Errorf("watch: %v", err)
	}
}
