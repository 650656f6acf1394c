package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// findTable returns the kernel's table inet sikkerguard, or nil if there is none.
func (r *reader) findTable() (*nftables.Table, error) {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(tableName), 0)},
	})
	if err != nil {
		return nil, err
	}
	answers, err := r.ask(unix.NFT_MSG_GETTABLE, 0, unix.NFPROTO_INET, attributes)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	t := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	if err == nil {
		err = decodeAll(answers, func(ad *netlink.AttributeDecoder) {
			for ad.Next() {
				switch ad.Type() {
				case unix.NFTA_TABLE_FLAGS:
					t.Flags = nftables.TableFlags(ad.Uint32())
				case unix.NFTA_TABLE_USE:
					t.Use = ad.Uint32()
				case nftaTableOwner:
					t.Owner = ad.Uint32()
				}
			}
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look for table inet %s: %w", tableName, err)
	}
	return t, nil
}

// nftaTableOwner is NFTA_TABLE_OWNER, the netlink port of the owner of a table (Linux 5.12).
const nftaTableOwner = 7

// nftaTable is the attribute of the table's name: NFTA_RULE_TABLE, NFTA_CHAIN_TABLE,
// NFTA_SET_TABLE, NFTA_OBJ_TABLE and NFTA_FLOWTABLE_TABLE.
const nftaTable = 1

// dumpTries is the number of attempts at a dump. A transaction on any table of the host interrupts
// a dump; the answer may then be incomplete or contain an object twice.
const dumpTries = 10

// dump requests every object of one type in the table, and passes the attributes of each answer to
// decode. If there is no table, decode is not called.
func (r *reader) dump(message uint16, decode func(*netlink.AttributeDecoder)) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: nftaTable, Data: append([]byte(tableName), 0)}})
	if err != nil {
		return err
	}
	replies, err := r.dumpFamily(unix.NFPROTO_INET, message, attrs)
	if err != nil {
		return err
	}
	return decodeAll(replies, decode)
}

// dumpFamily requests every object of one type and family that has the encoded attributes attrs,
// and returns the answers. If the kernel has no such table, there are none.
func (r *reader) dumpFamily(family byte, message uint16, attrs []byte) ([]netlink.Message, error) {
	for range dumpTries {
		replies, err := r.ask(message, netlink.Dump, family, attrs)
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(replies, interrupted) {
			return replies, nil
		}
	}
	return nil, errors.New("other programs keep changing the firewall; every listing was interrupted")
}

func interrupted(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }

func decodeAll(replies []netlink.Message, decode func(*netlink.AttributeDecoder)) error {
	for _, m := range replies {
		if len(m.Data) < 4 {
			return errors.New("answer is too short")
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		decode(ad)
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

// kernelRules returns the rules of each chain of the table, by chain name, each as the kernel
// encodes its expressions.
func (r *reader) kernelRules() (map[string][]string, error) {
	rules := map[string][]string{}
	err := r.dump(unix.NFT_MSG_GETRULE, func(ad *netlink.AttributeDecoder) {
		var chain, exprs, table string
		for ad.Next() {
			switch ad.Type() {
			case nftaTable:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				exprs = string(ad.Bytes())
			}
		}
		if table == tableName {
			rules[chain] = append(rules[chain], exprs)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return rules, nil
}

// Counters returns the packets and bytes of the named counters in the kernel. It is safe to call
// during Apply.
func (t *Table) Counters() (n ruleset.Counters, err error) {
	var err4, err6 error
	n.Packets4, n.Bytes4, err4 = t.reads.counter(dropPrefix + "4")
	n.Packets6, n.Bytes6, err6 = t.reads.counter(dropPrefix + "6")
	if err = errors.Join(err4, err6); err != nil {
		return ruleset.Counters{}, err
	}
	return n, nil
}

// has reports whether the set s has an element for the address a, in some ten microseconds. In an
// interval set that is the interval that contains a.
func (r *reader) has(s setPlan, a netip.Addr) (bool, error) {
	e := encoder{table: tableName}
	e.setOf(s)
	list := len(e.buf)
	e.attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, 0)
	e.element(a, false)
	binary.NativeEndian.PutUint16(e.buf[list:], uint16(len(e.buf)-list))
	answers, err := r.ask(unix.NFT_MSG_GETSETELEM, 0, unix.NFPROTO_INET, e.buf)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look up an element of set %s: %w", s.name, err)
	}
	return len(answers) > 0, nil
}
