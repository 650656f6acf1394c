// Package firewall chooses the backend that enforces a ruleset, and is the only interface to it.
//
// The backends put the rules into the kernel: nft writes an nftables table; iptables, for hosts
// without nf_tables, runs the ipset and iptables programs. The caller decides which sources are
// blocked. If the wanted backend is not available, Open returns an error with the remedy.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sikkerapi/sikkerguard/internal/firewall/iptables"
	"github.com/sikkerapi/sikkerguard/internal/firewall/nft"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Backend enforces a ruleset in the kernel. The rest of the agent does not know which one runs.
type Backend interface {
	// Apply makes the kernel enforce rs, whole or not at all, and returns the evidence.
	Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error)
	// Admit lets the sources of rs.Allow through the rules that a killed agent left, until a list
	// is applied. It does nothing if there are no such rules, or once a list has been applied.
	Admit(ctx context.Context, rs ruleset.Ruleset) error
	// Verify asks the kernel whether it still enforces the ruleset of the last Apply.
	Verify() (ruleset.Evidence, error)
	// Present checks that the kernel has the rules. It does not wait for a change in progress.
	Present() error
	// Counters returns the packets and bytes dropped since the rules were first put into the
	// kernel.
	Counters() (ruleset.Counters, error)
	// Hits returns the dropped packets by source, protocol and port since the previous call. Where
	// the backend cannot count so, Supported is false. After an error nothing is lost: the next
	// call returns those packets as well.
	Hits() (ruleset.Hits, error)
	// Watch calls lost when another program has changed the rules so that they no longer enforce
	// the ruleset of the last Apply. It returns nil when ctx ends.
	Watch(ctx context.Context, lost func(error)) error
	// Disarm stops the dropping, so that the counters no longer change, and leaves everything else
	// for Remove.
	Disarm() error
	// Remove deletes every object of the agent from the kernel, and nothing else.
	Remove() error
	// Close closes the connections to the kernel. Rules that were not removed stay, unless
	// Options.Keep is false and the kernel deletes them with their owner.
	Close() error
	// Info describes the backend and the limitations of the host. After Open only the limitations
	// change, with an Apply. It does not wait for a change in progress.
	Info() ruleset.Info
}

// Values of Options.Backend.
const (
	Auto     = "auto"
	NFTables = "nftables"
	IPTables = "iptables"
)

// ErrMismatch means that the kernel enforces other rules than the ruleset of the last Apply.
var ErrMismatch = ruleset.ErrMismatch

// Options configures a backend.
type Options struct {
	Backend string // Auto, NFTables or IPTables; empty is Auto
	Keep    bool   // the rules of a killed agent stay, and the next agent adopts them
	LogRate uint32 // LogRate of the later rulesets, which Open probes; 0 if unknown
}

// Open probes the kernel and returns a backend for it; Info returns the name and the reason. Active
// rules stay active until the first Apply, which adopts them. Auto is nftables if the kernel has
// nf_tables. An error that may pass, a missing capability or another agent is returned as an error,
// and is no reason to fall back to iptables.
func Open(o Options) (Backend, error) { return open(o, openNFT) }

// openNFT is nft.Open. A test replaces it by a function that returns the error of a kernel without
// nf_tables.
func openNFT(o nft.Options) (Backend, error) { return nft.Open(o) }

func open(o Options, openNFT func(nft.Options) (Backend, error)) (Backend, error) {
	switch o.Backend {
	case Auto, "", NFTables, IPTables:
	default:
		return nil, fmt.Errorf("unknown firewall backend %q", o.Backend)
	}
	table, err := openNFT(nft.Options{Keep: o.Keep})
	missing := errors.Is(err, nft.ErrUnsupported)
	c := &chosen{reason: "SIKKER_BACKEND=" + o.Backend}
	switch {
	case o.Backend == IPTables:
		// The result of nft only decides which iptables is needed, and whether an agent runs.
		if err == nil {
			err = table.Close()
		}
		if err == nil || missing || errors.Is(err, nft.ErrIncomplete) {
			err = c.useIPTables(o, missing)
		}
	case missing && o.Backend != NFTables:
		c.reason = "this kernel has no nf_tables"
		if err = c.useIPTables(o, true); err != nil {
			err = fmt.Errorf("%w: %w", nft.ErrUnsupported, err)
		}
	case err == nil:
		if o.Backend != NFTables {
			c.reason = "this kernel has nf_tables"
		}
		err = c.useNFT(table)
	}
	if err != nil {
		return nil, err
	}
	c.updateFlowtableGap()
	return c, nil
}

// chosen is the chosen backend. It removes the rules of a dead agent that used the other backend
// after the first list is active, so that there is no gap between them.
type chosen struct {
	Backend
	reason string
	gaps   []string

	otherGap     atomic.Pointer[string] // gap of the other backend's rules; nil when none is known
	flowtableGap atomic.Pointer[string] // gap of flowtables; nil when there are none

	mu          sync.Mutex
	removeOther func() error // removes the other backend's rules; nil when there are none
	// admitOther is Admit for the other backend's rules. It is set if removeOther is.
	admitOther func(context.Context, ruleset.Ruleset) error
}

func (c *chosen) useIPTables(o Options, legacy bool) error {
	fw, err := iptables.Open(iptables.Options{Legacy: legacy, Keep: o.Keep, LogRate: o.LogRate})
	if err != nil {
		return err
	}
	c.Backend = fw
	if !legacy {
		c.admitOther = func(_ context.Context, rs ruleset.Ruleset) error { return nft.Admit(rs) }
		c.removeOther = func() error {
			_, err := nft.Cleanup()
			return err
		}
	}
	return nil
}

func (c *chosen) useNFT(table Backend) error {
	c.Backend = table
	found, err := iptables.Left()
	switch {
	case errors.Is(err, iptables.ErrRunning):
		return errors.Join(err, table.Close())
	case err != nil: // iptables is broken, but not needed here
		c.gaps = append(c.gaps,
			ruleset.Gap("it is not known whether an agent with SIKKER_BACKEND=iptables left rules", err))
	case found:
		c.admitOther = iptables.Admit
		c.removeOther = func() error {
			_, err := iptables.Cleanup()
			return err
		}
	}
	return nil
}

// Info returns the backend's Info with the reason for the choice and the gaps of chosen.
func (c *chosen) Info() ruleset.Info {
	i := c.Backend.Info()
	i.Reason, i.Gaps = c.reason, slices.Concat(i.Gaps, c.gaps)
	for _, gap := range []*string{c.otherGap.Load(), c.flowtableGap.Load()} {
		if gap != nil {
			i.Gaps = append(i.Gaps, *gap)
		}
	}
	return i
}

// updateFlowtableGap sets the gap of flowtables, which other programs add and delete at any time.
func (c *chosen) updateFlowtableGap() {
	names, err := nft.Flowtables()
	if err != nil || len(names) == 0 { // without nf_tables there are none
		c.flowtableGap.Store(nil)
		return
	}
	gap := fmt.Sprintf("packets of forwarded flows that are offloaded (flowtable %s) pass before the rules: "+
		"if a source is listed while such a flow is open, the flow gets through until it ends",
		strings.Join(names, ", "))
	c.flowtableGap.Store(&gap)
}

// Apply also removes the other backend's rules. If that fails, it is a gap until it succeeds, and
// no error: the list is active, and a rollback would leave only the other backend's rules active.
func (c *chosen) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	e, err := c.Backend.Apply(ctx, rs)
	if err != nil {
		return e, err
	}
	c.updateFlowtableGap()
	if err := c.removeLeftovers(); err != nil {
		gap := ruleset.Gap("rules of an agent with another SIKKER_BACKEND may also be active (each list tries to "+
			"remove them; `sikkerguard cleanup`, while the agent is stopped, removes them)", err)
		c.otherGap.Store(&gap)
		return e, nil
	}
	c.otherGap.Store(nil)
	return e, nil
}

// Admit also lets the sources through the other backend's rules.
func (c *chosen) Admit(ctx context.Context, rs ruleset.Ruleset) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.Backend.Admit(ctx, rs)
	if c.removeOther != nil {
		err = errors.Join(err, c.admitOther(ctx, rs))
	}
	return err
}

// Remove also removes the other backend's rules.
func (c *chosen) Remove() error { return errors.Join(c.Backend.Remove(), c.removeLeftovers()) }

// removeLeftovers removes the other backend's rules, unless it has done so already.
func (c *chosen) removeLeftovers() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removeOther == nil {
		return nil
	}
	if err := c.removeOther(); err != nil {
		return err
	}
	c.removeOther = nil
	return nil
}

// InForce returns the names of the active tables and chains of any agent, one that runs or one that
// was killed. It changes nothing. An error means that there may be more.
func InForce() (names []string, err error) {
	table, err := nft.InForce()
	if table {
		names = append(names, "table inet sikkerguard")
	}
	chain, ierr := iptables.InForce()
	if chain {
		names = append(names, "chain SIKKERGUARD of iptables")
	}
	return names, errors.Join(err, ierr)
}

// Cleanup removes every object of a dead agent from the kernel, and returns their names. It returns
// an error while an agent runs.
func Cleanup() (removed []string, err error) {
	found, err := nft.Cleanup()
	if found != "" && err == nil {
		removed = append(removed, found)
	}
	if errors.Is(err, nft.ErrUnsupported) {
		err = nil // without nf_tables there is no table
	}
	more, ierr := iptables.Cleanup()
	return append(removed, more...), errors.Join(err, ierr)
}
