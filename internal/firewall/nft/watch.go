package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// watchInterval is how often the kernel's generation is asked for. It takes some ten microseconds; being told of each
// change instead makes the kernel describe every element of our own refreshes, which then take twenty times as long.
const watchInterval = 500 * time.Millisecond

// Watch looks, until ctx ends, whether somebody else changed the table, and calls lost when it no longer enforces what
// the last Apply put in place. It calls it again for each later change that does not mend that. Put the rules back with
// Apply. Watch looks into the table only when some table of the host changed. In a table without an owner it then fills the
// sets again, at times, because elements may have been exchanged. The error is one of the socket, or of filling them.
func (t *Table) Watch(ctx context.Context, lost func(error)) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch the firewall: %w", err)
	}
	defer func() { _ = c.Close() }() // it was only asked
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var seen uint32
	pending := false // the sets are to be filled again
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		gen, err := generation(c)
		if err != nil {
			return fmt.Errorf("watch the firewall: %w", err)
		}
		if gen == seen && !pending {
			continue
		}
		if gen != seen {
			err = t.look()
		}
		if err == nil {
			pending, err = t.refill()
		}
		switch {
		case errors.Is(err, ruleset.ErrMismatch):
			lost(err)
		case err != nil:
			return fmt.Errorf("watch the firewall: %w", err) // what was not looked at is looked at next time
		}
		seen = gen
	}
}

// look verifies the table, if there is to be one.
func (t *Table) look() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.enforce || t.rules == nil {
		return nil
	}
	_, err := t.verify()
	return err
}

// Present looks whether the kernel has the table and its base chain at this moment, and returns ruleset.ErrMismatch when it
// has not. Whether what they hold is right is Verify's to say: Present waits for nothing, for an Apply neither.
func (t *Table) Present() error {
	found, err := findTable()
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("%w: table inet %s is missing", ruleset.ErrMismatch, tableName)
	}
	if found.Flags&nftables.TableFlagDormant != 0 {
		return fmt.Errorf("%w: the table is dormant", ruleset.ErrMismatch)
	}
	have, err := kernelChains()
	if err != nil {
		return err
	}
	base := chains(nil)[0]
	k, ok := have[base.Name]
	switch {
	case !ok:
		return fmt.Errorf("%w: chain %s is missing", ruleset.ErrMismatch, base.Name)
	case !k.like(base):
		return fmt.Errorf("%w: chain %s is not on its hook", ruleset.ErrMismatch, base.Name)
	}
	return nil
}

// nftaGenID is NFTA_GEN_ID (linux/netfilter/nf_tables.h).
const nftaGenID = 1

// generation is the number of the kernel's ruleset: each transaction makes it another.
func generation(c *netlink.Conn) (uint32, error) {
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation: %w", err)
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("read the generation: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == nftaGenID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("the kernel tells no generation")
}

// Cleanup deletes a table that no live agent owns, and names it, with what was in it of another program; it returns nothing
// if there was none. The error is ErrOwned when an agent runs: stopping it removes the table.
func Cleanup() (removed string, err error) {
	found, err := findTable()
	if err != nil {
		return "", diagnose(err)
	}
	if found == nil {
		return "", nil
	}
	t, err := Open(Options{})
	if err != nil {
		return "", err
	}
	removed = "table inet " + tableName
	if l, err := t.layout(); err == nil && l != nil && len(l.strangers()) > 0 {
		removed += fmt.Sprintf(" (with %s of another program)", strings.Join(l.strangers(), ", "))
	}
	return removed, errors.Join(t.remove(), t.Close())
}
