package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// findTable returns the kernel's table inet sikkerguard, or nil if there is none.
func findTable() (*nftables.Table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	t, err := c.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for table inet %s: %w", tableName, err)
	}
	return t, nil
}

// nftaTable is the attribute of the table's name: NFTA_RULE_TABLE, NFTA_CHAIN_TABLE,
// NFTA_SET_TABLE, NFTA_OBJ_TABLE and NFTA_FLOWTABLE_TABLE.
const nftaTable = 1

// dumpTries is the number of attempts at a dump. A transaction on any table of the host interrupts
// a dump; the answer may then be incomplete or contain an object twice.
const dumpTries = 10

// dump requests every object of one type in the table, and passes the attributes of each answer to
// decode. If there is no table, decode is not called.
func dump(message uint16, decode func(*netlink.AttributeDecoder)) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: nftaTable, Data: append([]byte(tableName), 0)}})
	if err != nil {
		return err
	}
	replies, err := dumpFamily(unix.NFPROTO_INET, message, attrs)
	if err != nil {
		return err
	}
	return decodeAll(replies, decode)
}

// dumpFamily requests every object of one type and family that has the encoded attributes attrs,
// and returns the answers. If the kernel has no such table, there are none.
func dumpFamily(family byte, message uint16, attrs []byte) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = c.Close() }() // nothing was written

	request := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: netlink.Request | netlink.Dump,
		},
		// struct nfgenmsg (linux/netfilter/nfnetlink.h): family, version, resource.
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
	for range dumpTries {
		replies, err := c.Execute(request)
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
func kernelRules() (map[string][]string, error) {
	rules := map[string][]string{}
	err := dump(unix.NFT_MSG_GETRULE, func(ad *netlink.AttributeDecoder) {
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
func (t *Table) Counters() (ruleset.Counters, error) {
	var n ruleset.Counters
	objs, err := kernelObjects()
	if err != nil {
		return n, fmt.Errorf("read counters: %w", err)
	}
	for _, o := range objs {
		switch {
		case o.kind != nftables.ObjTypeCounter:
		case o.name == dropPrefix+"4":
			n.Packets4, n.Bytes4 = o.packets, o.bytes
		case o.name == dropPrefix+"6":
			n.Packets6, n.Bytes6 = o.packets, o.bytes
		}
	}
	return n, nil
}
