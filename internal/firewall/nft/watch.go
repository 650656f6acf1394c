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

// watchInterval is the time between two reads of the kernel's generation. One read takes some ten
// microseconds. A subscription to changes instead makes the kernel describe every element of the
// agent's own refreshes, which then take twenty times as long.
const watchInterval = 500 * time.Millisecond

// Watch calls lost when another program has changed the table so that it no longer enforces the
// ruleset of the last Apply. It calls lost again for each later change that does not restore the
// table; the caller restores it with Apply. Watch verifies the table only after some table of the
// host changed. In a table without an owner it then also fills the sets again, at limited
// intervals, because another program may have exchanged elements. Watch returns nil when ctx ends.
// An error comes from the netlink socket or from filling the sets.
func (t *Table) Watch(ctx context.Context, lost func(error)) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch the firewall: %w", err)
	}
	defer func() { _ = c.Close() }() // nothing was written
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var verified uint32 // generation at the last verification
	pending := false    // a refill is due
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
		if gen == verified && !pending {
			continue
		}
		if gen != verified {
			err = t.verifyApplied()
		}
		if err == nil {
			pending, err = t.refill()
		}
		switch {
		case errors.Is(err, ruleset.ErrMismatch):
			lost(err)
		case err != nil:
			return fmt.Errorf("watch the firewall: %w", err) // the next Watch verifies the table first
		}
		verified = gen
	}
}

// verifyApplied verifies the table, if a ruleset is applied.
func (t *Table) verifyApplied() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.active.enforced || t.applied.rules == nil {
		return nil
	}
	_, err := t.verify()
	return err
}

// Present checks that the kernel has the table and its base chain, and returns ruleset.ErrMismatch
// if not. It takes no lock, so it does not wait for an Apply. Verify checks the rules and sets.
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

// generation returns the number of the kernel's ruleset, which each transaction changes.
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
	return 0, errors.New("the kernel returned no ruleset generation")
}

// Cleanup deletes a table that no live agent owns. It returns the table's name, with the parts of
// another program that were in it, or "" if there was no table. The error is ErrOwned while an
// agent runs: stopping the agent removes the table.
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
	if l, err := t.layout(); err == nil && l != nil && len(l.foreignParts()) > 0 {
		removed += fmt.Sprintf(" (with %s of another program)", strings.Join(l.foreignParts(), ", "))
	}
	return removed, errors.Join(t.remove(), t.Close())
}
