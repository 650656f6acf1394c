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

// kernelSets reads the sets of the table, without their elements. No table means no sets.
func kernelSets() (map[string]kernelSet, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = c.Close() }()

	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_SET_TABLE, Data: append([]byte(tableName), 0)},
	})
	if err != nil {
		return nil, err
	}
	// struct nfgenmsg (linux/netfilter/nfnetlink.h): family, version, resource.
	data := append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...)
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSET),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: data,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	sets := make(map[string]kernelSet, len(replies))
	for _, m := range replies {
		name, s, err := decodeSet(m.Data)
		if err != nil {
			return nil, fmt.Errorf("decode set: %w", err)
		}
		sets[name] = s
	}
	return sets, nil
}

// decodeSet reads the answer to GETSET: struct nfgenmsg, then attributes.
func decodeSet(data []byte) (string, kernelSet, error) {
	var (
		name string
		s    kernelSet
	)
	if len(data) < 4 {
		return name, s, errors.New("message is too short")
	}
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return name, s, err
	}
	ad.ByteOrder = binary.BigEndian
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
	return name, s, ad.Err()
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
