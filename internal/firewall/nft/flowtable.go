package nft

import (
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
	reads, err := openReader()
	if err != nil {
		return nil, fmt.Errorf("list flowtables: %w", err)
	}
	defer func() { _ = reads.Close() }() // nothing was written
	replies, err := reads.dumpFamily(unix.NFPROTO_UNSPEC, unix.NFT_MSG_GETFLOWTABLE, nil)
	if err != nil {
		return nil, fmt.Errorf("list flowtables: %w", err)
	}
	return flowtableNames(replies)
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
