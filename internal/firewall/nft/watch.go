package nft

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// watchInterval is the time between two reads of the kernel's generation. One read takes some ten
// microseconds. A subscription to changes instead makes the kernel describe every element of the
// agent's own refreshes, which then take twenty times as long. No other program can change a table
// that has an owner, so its interval is longer: a read is all that wakes the agent at rest.
const watchInterval, watchOwned = 500 * time.Millisecond, 5 * time.Second

// Watch calls lost when another program has changed the table so that it no longer enforces the
// ruleset of the last Apply. It calls lost again for each later change that does not restore the
// table; the caller restores it with Apply. Watch verifies the table only after some table of the
// host changed. In a table without an owner it then also fills the sets again, at limited
// intervals, because another program may have exchanged elements. Watch returns nil when ctx ends.
// An error comes from the netlink socket or from filling the sets.
func (t *Table) Watch(ctx context.Context, lost func(error)) error {
	ticker := clock.NewTicker(ctx, t.watchEvery())
	defer ticker.Stop()
	var verified uint32 // generation at the last verification
	pending := false    // a refill is due
	for ticker.Wait() {
		gen, err := t.reads.generation()
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
	return nil
}

// watchEvery returns the time between two reads of Watch.
func (t *Table) watchEvery() time.Duration {
	if t.flags&nftables.TableFlagOwner != 0 {
		return watchOwned
	}
	return watchInterval
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
	found, err := t.reads.findTable()
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("%w: table inet %s is missing", ruleset.ErrMismatch, tableName)
	}
	if found.Flags&nftables.TableFlagDormant != 0 {
		return fmt.Errorf("%w: the table is dormant", ruleset.ErrMismatch)
	}
	have, err := t.reads.kernelChains()
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

// Cleanup deletes a table that no live agent owns. It returns the table's name, with the parts of
// another program that were in it, or "" if there was no table. The error is ErrOwned while an
// agent runs: stopping the agent removes the table.
func Cleanup() (removed string, err error) {
	reads, err := openReader()
	if err != nil {
		return "", diagnose(err)
	}
	found, err := reads.findTable()
	if err = errors.Join(err, reads.Close()); err != nil {
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
