package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Flowtables returns the flowtables of this host, in order, each as "NAME of table TABLE". Packets
// of a flow that a flowtable has taken over pass before the prerouting hook. The error means that
// the kernel has no nf_tables, that this process is not permitted, or that ten dumps in a row were
// interrupted by other changes.
func Flowtables() ([]string, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("list flowtables: %w", err)
	}
	defer func() { _ = c.Close() }() // nothing was written
	request := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETFLOWTABLE),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // every family
	}
	for range dumpTries {
		replies, err := c.Execute(request)
		if err != nil {
			return nil, fmt.Errorf("list flowtables: %w", err)
		}
		if slices.ContainsFunc(replies, interrupted) {
			continue
		}
		return flowtableNames(replies)
	}
	return nil, errors.New("list flowtables: other programs keep changing the firewall; " +
		"every listing was interrupted")
}

// flowtableNames decodes the kernel's answer and returns the names in order.
func flowtableNames(replies []netlink.Message) ([]string, error) {
	var names []string
	err := decodeAll(replies, func(ad *netlink.AttributeDecoder) {
		table, name := tableAndName(ad)
		names = append(names, name+" of table "+table)
	})
	slices.Sort(names)
	return names, err
}
