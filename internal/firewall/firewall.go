// Package firewall is the one interface to whatever enforces the list, and the choice of it.
//
// How the rules get into the kernel is the backends' business: nft writes an nftables table; iptables, for hosts without
// nf_tables, runs ipset and iptables. What may be blocked is decided before. Open fails when the wanted backend is not to be
// had, with an error that says what to do.
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
	// Apply makes the kernel enforce rs, whole or not at all, and returns what the kernel answered when asked.
	Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error)
	// Admit lets the sources of rs.Allow through the rules that a killed agent left, until a list is applied. It does nothing if there are
	// no such rules, or after that.
	Admit(ctx context.Context, rs ruleset.Ruleset) error
	// Verify asks the kernel whether it still enforces what was applied last.
	Verify() (ruleset.Evidence, error)
	// Present asks the kernel whether the rules are there, without waiting for anybody who changes them.
	Present() error
	// Counters reads what was dropped since the rules were first put in place.
	Counters() (ruleset.Counters, error)
	// Watch calls lost, until ctx ends, when somebody else changed the rules so that they no longer are what was applied.
	Watch(ctx context.Context, lost func(error)) error
	// Disarm ends the dropping, so that the counters stand still, and leaves everything else for Remove.
	Disarm() error
	// Remove takes everything of ours out of the kernel, and nothing else.
	Remove() error
	// Close lets go of the kernel. Rules that were not removed stay, or go, as Options.Keep says.
	Close() error
	// Info says what enforces, and what the host could give of what was wanted. After Open only its gaps change, with an
	// Apply. It waits for nobody.
	Info() ruleset.Info
}

// The values of Options.Backend.
const (
	Auto     = "auto"
	NFTables = "nftables"
	IPTables = "iptables"
)

// ErrMismatch means that the kernel enforces something else than it was told.
var ErrMismatch = ruleset.ErrMismatch

// Options choose a backend and say how it leaves the host.
type Options struct {
	Backend string // Auto, NFTables or IPTables; empty is Auto
	Keep    bool   // rules outlive an agent that was killed, and the next one takes them over
	LogRate uint32 // of the rulesets to come, if it is known: Open tries what it takes
}

// Open finds out what the kernel can do and returns a backend for it; Info says which and why. What is in force stays so,
// until the first Apply takes it over. Auto is nftables wherever the kernel has it: an error that may pass, a missing right
// or another agent are errors, not reasons to fall back.
func Open(o Options) (Backend, error) { return open(o, openNFT) }

// openNFT is nft.Open; a test stands in for it with the error of a kernel that has no nf_tables.
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
		// What nft says only tells which iptables is wanted, or that an agent runs.
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
	c.lookForFlowtables()
	return c, nil
}

// chosen is the backend that was chosen. What an agent left that used the other one goes after the first list is in force,
// so that there is no gap between them.
type chosen struct {
	Backend
	reason string
	gaps   []string

	left    atomic.Pointer[string] // the gap that the other backend left, nil when none is known
	offload atomic.Pointer[string] // the gap that flowtables are, nil when there is none

	admitOther func(context.Context, ruleset.Ruleset) error // in those; nil if there cannot be any

	mu    sync.Mutex
	other func() error // removes what the other backend left; nil when nothing is left
}

func (c *chosen) useIPTables(o Options, legacy bool) error {
	fw, err := iptables.Open(iptables.Options{Legacy: legacy, Keep: o.Keep, LogRate: o.LogRate})
	if err != nil {
		return err
	}
	c.Backend = fw
	if !legacy {
		c.admitOther = func(_ context.Context, rs ruleset.Ruleset) error { return nft.Admit(rs) }
		c.other = func() error {
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
	case err != nil: // a broken program that is not needed here
		c.gaps = append(c.gaps, fmt.Sprintf("it is not known whether an agent with SIKKER_BACKEND=iptables left rules: %s", oneLine(err)))
	case found:
		c.admitOther = iptables.Admit
		c.other = func() error {
			_, err := iptables.Cleanup()
			return err
		}
	}
	return nil
}

// oneLine is an error for the log, where lines are not escaped: joined errors stand on a line each.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Info adds why, and what the other backend left.
func (c *chosen) Info() ruleset.Info {
	i := c.Backend.Info()
	i.Reason, i.Gaps = c.reason, slices.Concat(i.Gaps, c.gaps)
	for _, gap := range []*string{c.left.Load(), c.offload.Load()} {
		if gap != nil {
			i.Gaps = append(i.Gaps, *gap)
		}
	}
	return i
}

// lookForFlowtables makes a gap of flowtables, which other programs come and go with.
func (c *chosen) lookForFlowtables() {
	names, err := nft.Flowtables()
	if err != nil || len(names) == 0 { // without nf_tables there are none
		c.offload.Store(nil)
		return
	}
	gap := fmt.Sprintf("packets of forwarded flows that are offloaded (flowtable %s) pass before the rules: "+
		"a source that is listed while its flow lasts gets through in that flow until it ends", strings.Join(names, ", "))
	c.offload.Store(&gap)
}

// Apply also ends what the other backend left. When that fails it is a gap until it succeeds, and no failure: the list is in
// force, and taking it back would leave the other one alone in force.
func (c *chosen) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	e, err := c.Backend.Apply(ctx, rs)
	if err != nil {
		return e, err
	}
	c.lookForFlowtables()
	if err := c.end(); err != nil {
		left := fmt.Sprintf("what an agent with another SIKKER_BACKEND left may be in force too (it is tried again with the next list; `sikkerguard cleanup`, while the agent is stopped, removes it): %s", oneLine(err))
		c.left.Store(&left)
		return e, nil
	}
	c.left.Store(nil)
	return e, nil
}

// Admit also lets them through what the other backend left.
func (c *chosen) Admit(ctx context.Context, rs ruleset.Ruleset) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.Backend.Admit(ctx, rs)
	if c.other != nil && c.admitOther != nil {
		err = errors.Join(err, c.admitOther(ctx, rs))
	}
	return err
}

// Remove also ends what the other backend left.
func (c *chosen) Remove() error { return errors.Join(c.Backend.Remove(), c.end()) }

// end removes what the other backend left, until that succeeded once.
func (c *chosen) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.other == nil {
		return nil
	}
	if err := c.other(); err != nil {
		return err
	}
	c.other = nil
	return nil
}

// InForce names the rules of any agent that are in force, of one that runs or of one that was killed. It changes nothing. The
// error says why it cannot be seen whether there are more.
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

// Cleanup removes whatever a dead agent left in the kernel, and says what that was. It fails while an agent runs.
func Cleanup() (removed []string, err error) {
	found, err := nft.Cleanup()
	if found != "" && err == nil {
		removed = append(removed, found)
	}
	if errors.Is(err, nft.ErrUnsupported) {
		err = nil // then there is no table
	}
	more, ierr := iptables.Cleanup()
	return append(removed, more...), errors.Join(err, ierr)
}
