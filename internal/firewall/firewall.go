// Package firewall is the one interface to whatever enforces the list, and the choice of it.
//
// How the rules get into the kernel is the backends' business: nft writes an nftables table. What may be blocked is
// decided before. Open fails when the wanted backend is not to be had, with an error that says what to do.
package firewall

import (
	"context"
	"errors"
	"fmt"

	"github.com/sikkerapi/sikkerguard/internal/firewall/nft"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Backend enforces a ruleset in the kernel. The rest of the agent does not know which one runs.
type Backend interface {
	// Apply makes the kernel enforce rs, whole or not at all, and returns what the kernel answered when asked.
	Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error)
	// Verify asks the kernel whether it still enforces what was applied last.
	Verify() (ruleset.Evidence, error)
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
	// Info says what enforces, and what the host could give of what was wanted. It does not change after Open.
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

// ErrNoIPTables means that the backend for hosts without nft was asked for.
var ErrNoIPTables = errors.New("this version has no iptables backend: use SIKKER_BACKEND=auto or nftables")

// Options choose a backend and say how it leaves the host.
type Options struct {
	Backend string // Auto, NFTables or IPTables; empty is Auto
	Keep    bool   // rules outlive an agent that was killed, and the next one takes them over
}

// Open finds out what the kernel can do and returns a backend for it, without changing anything.
func Open(o Options) (Backend, error) {
	switch o.Backend {
	case Auto, NFTables, "":
		t, err := nft.Open(nft.Options{Keep: o.Keep})
		if err != nil {
			return nil, err
		}
		return t, nil
	case IPTables:
		return nil, ErrNoIPTables
	default:
		return nil, fmt.Errorf("unknown firewall backend %q", o.Backend)
	}
}

// Cleanup removes whatever a dead agent left in the kernel, and says what that was. It fails while an agent runs.
func Cleanup() (removed []string, err error) {
	found, err := nft.Cleanup()
	if found && err == nil {
		removed = append(removed, "table inet sikkerguard")
	}
	return removed, err
}
