package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// nftaSetCount is NFTA_SET_COUNT (linux/netfilter/nf_tables.h, since Linux 6.16): how many elements a set has. The
// library does not know it; reading the elements back to count them takes minutes.
const nftaSetCount = 20

// kernelSet is what the kernel tells of a set without its elements.
type kernelSet struct {
	size    uint32 // 0: none
	count   uint32
	counted bool // the kernel told the count
}

// findTable returns the table as the kernel has it, or nil when there is none.
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

// dump asks for everything of one type in the table, and hands the attributes of each answer to decode. No table means no
// answers.
func dump(message, tableAttr uint16, decode func(*netlink.AttributeDecoder) error) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = c.Close() }() // it was only asked

	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: tableAttr, Data: append([]byte(tableName), 0)}})
	if err != nil {
		return err
	}
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: netlink.Request | netlink.Dump,
		},
		// struct nfgenmsg (linux/netfilter/nfnetlink.h): family, version, resource.
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			return errors.New("answer is too short")
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		if err := errors.Join(decode(ad), ad.Err()); err != nil {
			return err
		}
	}
	return nil
}

// kernelSets reads the sets of the table, without their elements.
func kernelSets() (map[string]kernelSet, error) {
	sets := map[string]kernelSet{}
	err := dump(unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, func(ad *netlink.AttributeDecoder) error {
		name, s := decodeSet(ad)
		sets[name] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	return sets, nil
}

// kernelRules reads the rules of each chain of the table, each as the kernel encodes its expressions.
func kernelRules() (map[string][]string, error) {
	rules := map[string][]string{}
	err := dump(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, func(ad *netlink.AttributeDecoder) error {
		var chain, exprs, table string
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
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
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return rules, nil
}

// decodeSet reads the answer to GETSET.
func decodeSet(ad *netlink.AttributeDecoder) (name string, s kernelSet) {
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_NAME:
			name = ad.String()
		case nftaSetCount:
			s.count, s.counted = ad.Uint32(), true
		case unix.NFTA_SET_DESC:
			ad.Nested(func(nad *netlink.AttributeDecoder) error {
				nad.ByteOrder = binary.BigEndian
				for nad.Next() {
					if nad.Type() == unix.NFTA_SET_DESC_SIZE {
						s.size = nad.Uint32()
					}
				}
				return nil
			})
		}
	}
	return name, s
}

// Counters reads the named counters from the kernel. It may be called at any time, beside Apply too.
func (t *Table) Counters() (ruleset.Counters, error) {
	var n ruleset.Counters
	c, err := nftables.New()
	if err != nil {
		return n, err
	}
	objs, err := c.GetObjects(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	if err != nil {
		return n, fmt.Errorf("read counters: %w", err)
	}
	fams := families()
	for _, o := range objs {
		switch o, ok := o.(*nftables.CounterObj); {
		case !ok:
		case o.Name == dropPrefix+fams[0].name:
			n.Packets4, n.Bytes4 = o.Packets, o.Bytes
		case o.Name == dropPrefix+fams[1].name:
			n.Packets6, n.Bytes6 = o.Packets, o.Bytes
		}
	}
	return n, nil
}
