package nft

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestPartialApply makes the last transaction of a change fail after an earlier one has changed the
// rules: Apply returns ErrMismatch, and the next Apply succeeds. Before that it makes a change of
// one transaction fail: the active rules stay, and Apply returns the kernel's error alone.
func TestPartialApply(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.flags = 0 // as on a kernel without owner: another socket may change the table
	h.apply(repeat(20_000, 32), list())
	other := func(more string) blocklist.Blocklist {
		return blocklist.New(append(random(20_000, 1), list(more).Prefixes()...))
	}
	large := h.table.conn
	h.Do(func() {
		var err error
		// The kernel takes no batch of 20,000 elements from a socket with so small a buffer.
		if h.table.conn, err = dial(); err != nil {
			t.Fatal(err)
		}
		if err := h.table.conn.conn.SetWriteBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
	})
	small := h.table.conn
	t.Cleanup(func() { _ = small.close() })
	_, err := h.tryApply(other("203.0.113.9"), list())
	if !errors.Is(err, unix.EMSGSIZE) || errors.Is(err, ruleset.ErrMismatch) {
		t.Errorf("unchanged table: got %v, want %v alone", err, unix.EMSGSIZE)
	}
	// The set of networks is new: it is filled and looked up before the rest is sent.
	_, err = h.tryApply(other("45.9.20.0/24"), list())
	if !errors.Is(err, unix.EMSGSIZE) || !errors.Is(err, ruleset.ErrMismatch) {
		t.Errorf("partly changed table: got %v, want %v and %v", err, ruleset.ErrMismatch, unix.EMSGSIZE)
	}
	h.Check("partly applied", nettest.Addrs("11.0.0.1", "45.9.20.7"), nettest.Addrs("203.0.113.9"))
	h.table.conn = large
	h.apply(other("203.0.113.9"), list())
	h.Check("after", nettest.Addrs("203.0.113.9"), nettest.Addrs("11.0.0.1", "45.9.20.7"))
}
