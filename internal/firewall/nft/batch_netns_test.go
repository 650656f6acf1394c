package nft

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestBuildError makes a part of a transaction fail to be built: nothing of it is sent, also not
// with a later transaction, and the active rules stay.
func TestBuildError(t *testing.T) {
	t.Parallel()
	errPart := errors.New("a part")
	tests := []struct {
		name  string
		spoil func(b *batch)
		want  error
	}{
		{"bad part that returns its error", func(b *batch) { b.err(errPart) }, errPart},
		{"bad set", func(b *batch) {
			b.err(b.conn.AddSet(&nftables.Set{Table: b.table, Anonymous: true}, nil))
		}, errBuild},
		{"bad rule, whose error the library returns later", func(b *batch) {
			exprs := []expr.Any{&expr.Numgen{Type: 99}}
			b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: chains(b.table)[0], Exprs: exprs})
		}, errBuild},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			h.apply(list("203.0.113.9"), list())
			before := h.listed()
			spoiled := func() *batch {
				block := planBlock(list("5.6.7.8"))
				b := newBatch(h.table.conn, h.table.table(), nil)
				b.begin(block)
				b.rules(rules(block, nil, ruleset.Ruleset{LogGroup: 100, LogRate: 1}, false))
				b.fill(block)
				tt.spoil(b)
				return b
			}
			h.Do(func() {
				err := h.table.send(spoiled())
				if !errors.Is(err, errBuild) || !errors.Is(err, tt.want) || tableAtFault(err) {
					t.Errorf("got %v, want %v and %v", err, errBuild, tt.want)
				}
			})
			if diff := cmp.Diff(before, h.listed()); diff != "" {
				t.Errorf("the table changed (-want +got):\n%s", diff)
			}
			h.Check("not built", nettest.Addrs("203.0.113.9"), nettest.Addrs("5.6.7.8"))

			// The messages of the failed transaction are not sent with the next one.
			h.Do(func() {
				b := newBatch(h.table.conn, h.table.table(), nil)
				b.conn.AddTable(b.table)
				if err := b.commit(); err != nil {
					t.Errorf("the next transaction: %v", err)
				}
			})
			if diff := cmp.Diff(before, h.listed()); diff != "" {
				t.Errorf("the table changed with the next transaction (-want +got):\n%s", diff)
			}
			h.apply(list("203.0.113.10"), list())
			h.Check("applied", nettest.Addrs("203.0.113.10"), nettest.Addrs("5.6.7.8", "203.0.113.9"))
		})
	}
}

// TestOnlyErrors commits a batch that holds an error and no message.
func TestOnlyErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	errPart := errors.New("a part")
	b := newBatch(h.table.conn, h.table.table(), nil)
	b.err(errPart)
	h.Do(func() {
		if err := b.commit(); !errors.Is(err, errPart) {
			t.Errorf("got %v, want %v", err, errPart)
		}
	})
}

// TestAnswer distinguishes transactions that the kernel took, that it refused, and that it may have
// taken. Only an acknowledgement proves that it took one.
func TestAnswer(t *testing.T) {
	t.Parallel()
	const sequence = 7
	reply := func(sequence uint32, code int32) []byte {
		b := binary.NativeEndian.AppendUint32(nil, 36)
		b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_ERROR)
		b = append(b, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, sequence)
		b = append(b, 0, 0, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(code))
		return append(b, make([]byte, unix.SizeofNlMsghdr)...)
	}
	taken, refused := reply(sequence, 0), reply(sequence, -int32(unix.EEXIST))
	tests := []struct {
		name      string
		datagrams [][]byte
		lost      error
		want      error
	}{
		{"OK acknowledged", [][]byte{taken}, nil, nil},
		{"bad refused", [][]byte{refused}, nil, unix.EEXIST},
		{"bad refused in part", [][]byte{taken, refused}, nil, unix.EEXIST},
		{"bad refused in part, in one datagram", [][]byte{slices.Concat(taken, refused)}, nil, unix.EEXIST},
		{"bad no answer", nil, nil, errUnsure},
		{"bad answers dropped", nil, unix.ENOBUFS, unix.ENOBUFS},
		{"bad refused and answers dropped", [][]byte{refused}, unix.ENOBUFS, unix.EEXIST},
		{"bad answer to another transaction", [][]byte{reply(sequence-1, 0)}, nil, errUnsure},
		{"OK refusal of another transaction", [][]byte{reply(sequence-1, -1), taken}, nil, nil},
		{"bad cut short", [][]byte{taken[:35]}, nil, errUnsure},
		{"bad length of a message", [][]byte{append([]byte{8, 0, 0, 0}, taken[4:]...)}, nil, errUnsure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := answer{lost: tt.lost}
			for _, d := range tt.datagrams {
				a.read(d, sequence)
			}
			err := a.outcome()
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			refused := errors.Is(tt.want, unix.EEXIST)
			if errors.Is(err, errUnsure) == refused && tt.want != nil || tableAtFault(err) != refused {
				t.Errorf("%v: unsure %t, table at fault %t", err, errors.Is(err, errUnsure), tableAtFault(err))
			}
		})
	}
}

// change is one message of the kernel about a change of the table: its type and its content.
type change struct {
	kind uint16
	data string
}

// transactions returns the changes that the kernel reports while f runs, grouped by transaction.
func (h *host) transactions(f func()) [][]change {
	h.tb.Helper()
	var c *netlink.Conn
	var err error
	h.Do(func() { c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil) })
	if err == nil {
		err = errors.Join(c.SetReadBuffer(16<<20), c.JoinGroup(unix.NFNLGRP_NFTABLES))
	}
	if err != nil {
		h.tb.Fatal(err)
	}
	doneC := make(chan [][]change)
	go func() {
		all := [][]change{nil}
		for {
			messages, err := c.Receive()
			if err != nil {
				doneC <- all
				return
			}
			for _, m := range messages {
				switch kind := uint16(m.Header.Type) & 0xff; {
				case kind == unix.NFT_MSG_NEWGEN:
					all = append(all, nil)
				case strings.Contains(string(m.Data), tableName+"\x00"):
					all[len(all)-1] = append(all[len(all)-1], change{kind, string(m.Data)})
				case strings.Contains(string(m.Data), "the-end\x00"):
					doneC <- all[:len(all)-1]
					return
				}
			}
		}
	}()
	f()
	h.Run("nft", "add table inet the-end; delete table inet the-end")
	all := <-doneC
	if err := c.Close(); err != nil {
		h.tb.Error(err)
	}
	return all
}

// first returns the index of the first transaction with a change of a kind that contains all of
// these texts, or -1.
func first(all [][]change, kind uint16, texts ...string) int {
	return slices.IndexFunc(all, func(tx []change) bool {
		return slices.ContainsFunc(tx, func(c change) bool {
			return c.kind == kind &&
				!slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(c.data, s) })
		})
	})
}

// TestChangeOrder checks the order in which the kernel receives a change. A packet test would not
// do: a packet passes through the gap of a wrong order only once in a million.
func TestChangeOrder(t *testing.T) {
	t.Parallel()
	t.Run("a set is filled before a rule looks it up", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		h.apply(list("62.1.1.1"), list())
		all := h.transactions(func() { h.apply(list("62.0.0.0/7", "9.9.9.0/24"), list("9.9.9.9")) })
		for _, set := range []string{"blocklist4_any\x00", "blocklist4_24\x00", "whitelist4\x00"} {
			filled := first(all, unix.NFT_MSG_NEWSETELEM, set)
			used := first(all, unix.NFT_MSG_NEWRULE, set)
			if filled < 0 || used <= filled {
				t.Errorf("%s is filled in transaction %d and looked up in %d", set, filled, used)
			}
		}
	})
	t.Run("an address is in the new set before it leaves the old one", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		h.apply(list("45.9.20.0/24", "45.9.21.0/24", "203.0.113.9"), list())
		all := h.transactions(func() { h.apply(list("45.9.20.7", "45.9.21.0/24", "203.0.113.9"), list()) })
		added := first(all, unix.NFT_MSG_NEWSETELEM, "blocklist4_32\x00", "\x2d\x09\x14\x07")
		removed := first(all, unix.NFT_MSG_DELSETELEM, "blocklist4_24\x00", "\x2d\x09\x14\x00")
		if added < 0 || removed <= added {
			t.Errorf("the address is added in transaction %d and its network deleted in %d", added, removed)
		}
	})
	t.Run("a set that grows stays in use until its successor is filled", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, Options{})
		h.apply(list("203.0.113.9"), list())
		all := h.transactions(func() { h.apply(repeat(minSize+1, 32), list()) })
		filled := first(all, unix.NFT_MSG_NEWSETELEM, "blocklist4_32_grown\x00")
		used := first(all, unix.NFT_MSG_NEWRULE, "blocklist4_32_grown\x00")
		successor := first(all[used+1:], unix.NFT_MSG_NEWSETELEM, "blocklist4_32\x00")
		removed := first(all, unix.NFT_MSG_DELSET, "blocklist4_32_grown\x00")
		if filled < 0 || used <= filled || successor < 0 || removed <= used+1+successor {
			t.Errorf("filled in transaction %d, looked up in %d, successor filled in %d, deleted in %d",
				filled, used, used+1+successor, removed)
		}
	})
}
