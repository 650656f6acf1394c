package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The iptables that uses nf_tables makes a table raw with chains there and never deletes it. The
// messages in this file delete it. The kernel accepts them only if the table is empty.

const (
	// nonRecursive is NLM_F_NONREC (linux/netlink.h): deleting an object that is not empty fails
	// with EBUSY.
	nonRecursive = netlink.HeaderFlags(0x100)
	// nftaName is NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE
	// (linux/netfilter/nf_tables.h). nftaChainName is NFTA_CHAIN_NAME.
	nftaName, nftaChainName = 1, 3
)

// hasNFTable reports whether nf_tables has a table raw of the family.
func hasNFTable(proto uint8) (bool, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for table raw: %w", err)
	}
	defer func() { _ = c.Close() }() // it was only read
	m, err := nftMessage(unix.NFT_MSG_GETTABLE, netlink.Request|netlink.Acknowledge, proto, "")
	if err != nil {
		return false, err
	}
	switch _, err := c.Execute(m); {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // there is no nf_tables
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask for table raw: %w", err)
	}
	return true, nil
}

// deleteNFTable deletes table raw of the family from nf_tables, if the table holds only the chains
// that iptables makes and these are empty.
func deleteNFTable(proto uint8) error {
	var err error
	// The chains differ between versions of iptables.
	for _, chains := range [][]string{{"PREROUTING"}, {"PREROUTING", "OUTPUT"}, {}, {"OUTPUT"}} {
		if err = deleteNFTableWith(proto, chains); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

// deleteNFTableWith deletes the chains and the table in one transaction.
func deleteNFTableWith(proto uint8, chains []string) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the answer was read
	// Batch messages name the subsystem of the messages between them.
	limits := func(kind uint16) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	batch := []netlink.Message{limits(unix.NFNL_MSG_BATCH_BEGIN)}
	for _, name := range chains {
		m, err := nftMessage(unix.NFT_MSG_DELCHAIN, netlink.Request|nonRecursive, proto, name)
		if err != nil {
			return err
		}
		batch = append(batch, m)
	}
	m, err := nftMessage(unix.NFT_MSG_DELTABLE, netlink.Request|netlink.Acknowledge|nonRecursive, proto, "")
	if err != nil {
		return err
	}
	batch = append(batch, m, limits(unix.NFNL_MSG_BATCH_END))
	if _, err := c.SendMessages(batch); err != nil {
		return err
	}
	_, err = c.Receive() // the first error, or the single acknowledgement
	return err
}

// nftMessage returns a message about table raw, a chain in it, or the rules of that chain.
func nftMessage(kind uint16, flags netlink.HeaderFlags, proto uint8, chain string) (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.String(nftaName, "raw")
	if chain != "" {
		attr := uint16(nftaChainName)
		if kind == unix.NFT_MSG_GETRULE {
			attr = unix.NFTA_RULE_CHAIN
		}
		ae.String(attr, chain)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: flags},
		Data:   append([]byte{proto, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}, nil
}
