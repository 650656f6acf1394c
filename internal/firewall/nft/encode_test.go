package nft

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// TestEncoder compares the encoded elements with those of the library: every attribute is the same,
// in sets of addresses and of intervals, of both families, also in lists of many messages.
func TestEncoder(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		list blocklist.Blocklist
	}{
		{"OK each set", list("5.0.0.1", "5.0.1.0/24", "5.1.0.0/16", "62.0.0.0/7",
			"2001:db8::1", "2001:db8:1::/64", "2001:db8:2::/48", "2001:db9::/32", "2001:dba::/50")},
		{"OK top of the range", list("224.0.0.0/3", "8000::/1")},
		{"OK several messages", repeat(10_000, 32)},
		{"OK several messages of intervals", repeat(10_000, 25)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, s := range planBlock(tt.list) {
				e := encoder{table: tableName}
				e.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, s, s.elements)
				if diff := cmp.Diff(byLibrary(t, s), decodeElements(t, e.buf)); diff != "" {
					t.Errorf("%s: elements (-library +encoder):\n%s", s.name, diff)
				}
			}
		})
	}
}

// encoded is one element as it is encoded.
type encoded struct {
	Set, Key string
	End      bool
}

// byLibrary returns the elements of s as the library encodes them.
func byLibrary(t *testing.T, s setPlan) []encoded {
	t.Helper()
	b := newBatch(&socket{}, &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}, nil)
	set := s.set(b.table)
	for p := range s.elements {
		b.err(b.conn.SetAddElements(set, []nftables.SetElement{{Key: p.Addr().AsSlice()}}))
		if end := netipx.PrefixLastIP(p).Next(); s.interval && end.IsValid() {
			b.err(b.conn.SetAddElements(set, []nftables.SetElement{{Key: end.AsSlice(), IntervalEnd: true}}))
		}
	}
	begin := len(b.encoder.buf)
	b.flush()
	if len(b.errs) > 0 {
		t.Fatal(b.errs)
	}
	return decodeElements(t, b.encoder.buf[begin:])
}

// decodeElements decodes messages that add elements.
func decodeElements(t *testing.T, buf []byte) (all []encoded) {
	t.Helper()
	for len(buf) > 0 {
		var m netlink.Message
		size := int(binary.NativeEndian.Uint32(buf))
		if err := m.UnmarshalBinary(buf[:align(size)]); err != nil {
			t.Fatal(err)
		}
		buf = buf[align(size):]
		if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM || m.Data[0] != unix.NFPROTO_INET ||
			m.Header.Flags != netlink.Request|netlink.Create {
			t.Fatalf("message %+v", m.Header)
		}
		all = append(all, decodeMessage(t, m)...)
	}
	return all
}

func decodeMessage(t *testing.T, m netlink.Message) (all []encoded) {
	t.Helper()
	var set, table string
	err := decodeAll([]netlink.Message{m}, func(ad *netlink.AttributeDecoder) {
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_ELEM_LIST_TABLE:
				table = ad.String()
			case unix.NFTA_SET_ELEM_LIST_SET:
				set = ad.String()
			case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
				nested(ad, func(ad *netlink.AttributeDecoder) {
					e := encoded{}
					nested(ad, func(ad *netlink.AttributeDecoder) {
						switch ad.Type() {
						case unix.NFTA_SET_ELEM_FLAGS:
							e.End = ad.Uint32() == unix.NFT_SET_ELEM_INTERVAL_END
						case unix.NFTA_SET_ELEM_KEY:
							nested(ad, func(ad *netlink.AttributeDecoder) { e.Key = string(ad.Bytes()) })
						}
					})
					all = append(all, e)
				})
			}
		}
	})
	if err != nil || table != tableName {
		t.Fatalf("table %q, %v", table, err)
	}
	for i := range all {
		all[i].Set = set
	}
	return all
}

// TestEncoderAllocates checks that encoding allocates the buffer alone, once.
func TestEncoderAllocates(t *testing.T) {
	for _, l := range []blocklist.Blocklist{repeat(50_000, 32), repeat(50_000, 25)} {
		sets := planBlock(l)
		allocations := testing.AllocsPerRun(5, func() {
			e := encoder{table: tableName}
			e.grow(sets)
			for _, s := range sets {
				e.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, s, s.elements)
			}
		})
		if allocations > 20 { // the closures take some
			t.Errorf("%d elements took %v allocations", sets[0].count, allocations)
		}
	}
}
