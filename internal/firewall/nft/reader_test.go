package nft

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// encodedAnswer returns an encoded netlink message.
func encodedAnswer(kind netlink.HeaderType, sequence uint32, data []byte) []byte {
	m := netlink.Message{
		Header: netlink.Header{
			Length: uint32(unix.SizeofNlMsghdr + (len(data)+3)&^3), Type: kind, Sequence: sequence,
		},
		Data: data,
	}
	raw, err := m.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return raw
}

// TestDecodeAnswers checks which answers of a datagram belong to a request, and where they end.
func TestDecodeAnswers(t *testing.T) {
	t.Parallel()
	const object = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWOBJ)
	code := func(errno unix.Errno) []byte {
		return binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
	}
	one := encodedAnswer(object, 7, make([]byte, 4))
	stale := encodedAnswer(object, 6, make([]byte, 4))
	end := encodedAnswer(netlink.Done, 7, code(0))
	join := func(parts ...[]byte) (raw []byte) {
		for _, p := range parts {
			raw = append(raw, p...)
		}
		return raw
	}
	for name, tt := range map[string]struct {
		raw  []byte
		dump bool
		n    int
		done bool
		err  error
		any  bool // any error
	}{
		"OK one answer":                        {raw: one, n: 1, done: true},
		"OK an answer to an earlier request":   {raw: join(stale, one), n: 1, done: true},
		"OK nothing but an earlier one":        {raw: stale},
		"OK part of a dump":                    {raw: join(one, one), dump: true, n: 2},
		"OK the end of a dump":                 {raw: join(one, end), dump: true, n: 1, done: true},
		"bad the kernel refuses":               {raw: encodedAnswer(netlink.Error, 7, code(unix.ENOENT)), done: true, err: unix.ENOENT},
		"bad a dump fails at its end":          {raw: join(one, encodedAnswer(netlink.Done, 7, code(unix.EINTR))), dump: true, done: true, err: unix.EINTR},
		"bad an earlier request was refused":   {raw: encodedAnswer(netlink.Error, 6, code(unix.ENOENT))},
		"bad shorter than its header says":     {raw: one[:len(one)-1], any: true},
		"bad a length of less than its header": {raw: append([]byte{3, 0, 0, 0}, one[4:]...), any: true},
	} {
		got, done, err := decodeAnswers(tt.raw, 7, tt.dump)
		ok := errors.Is(err, tt.err) || tt.any && err != nil
		if len(got) != tt.n || done != tt.done || !ok {
			t.Errorf("%s: %d answers, done %t, %v; want %d, %t, %v", name, len(got), done, err, tt.n, tt.done, tt.err)
		}
	}
}

// TestCountersOfNothing checks that the counters of a table that is gone are zero, and that they are
// read again once it is back: the socket of the reader lasts.
func TestCountersOfNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	for range 2 {
		if n, err := h.table.Counters(); err != nil || n.Packets() != 0 {
			t.Errorf("without a table: %+v, %v", n, err)
		}
		h.apply(list("203.0.113.9"), list())
		h.Check("with a table", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.113.8"))
		if n, err := h.table.Counters(); err != nil || n.Packets4 == 0 || n.Bytes4 == 0 || n.Packets6 != 0 {
			t.Errorf("after dropped packets: %+v, %v", n, err)
		}
		if err := h.table.Remove(); err != nil {
			t.Fatal(err)
		}
	}
}
