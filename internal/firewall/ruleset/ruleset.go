// Package ruleset defines the values that the agent, the firewall package and the backends share:
// the ruleset to enforce, the evidence that the kernel enforces it, and counts of dropped packets. It
// does no I/O and returns no errors.
package ruleset

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/plain"
)

// ErrMismatch means that the kernel accepted a ruleset but enforces other rules.
var ErrMismatch = errors.New("the kernel does not enforce the ruleset that was applied")

// Info describes the backend and the features of the host that it uses or lacks. The log, the
// status and the metrics show it.
type Info struct {
	Name     string   // nftables or iptables
	Reason   string   // reason for the choice, a few words
	Features []string // kernel features in use, a word or two each: "table owner"
	Gaps     []string // limitations of the host and their consequences, one sentence each
	// Detours are missing kernel features that the backend replaces by a slower way to the same
	// protection, one sentence each.
	Detours []string
}

// Gap returns a sentence of Info.Gaps: text, a colon and the text of cause on one line. Joined
// errors have one line each, and the log does not escape newlines.
func Gap(text string, cause error) string {
	return text + ": " + plain.Joined(cause.Error())
}

// Ruleset is the whole desired state. A backend enforces all of it, or changes nothing.
type Ruleset struct {
	Block    blocklist.Blocklist // sources whose packets are dropped
	Allow    blocklist.Blocklist // sources whose packets are never dropped, even if Block has them
	LogGroup uint16              // NFLOG group that dropped packets are copied to
	LogRate  uint32              // most packets per second that are copied; the drop has no limit
}

// Evidence is the kernel's answer to a verification. Only a backend makes one.
type Evidence struct {
	Entries4, Entries6 int           // entries of Block, by family
	Elements           int           // set elements of those entries
	Counted            bool          // the kernel returned element counts, and they were right
	Sampled            int           // elements that were looked up one by one, all found
	Took               time.Duration // from the first request to the last answer
}

// Entries returns the number of addresses and networks enforced.
func (e Evidence) Entries() int { return e.Entries4 + e.Entries6 }

// Counters holds packets and bytes dropped since the rules were first put into the kernel, by the
// family of the source.
type Counters struct {
	Packets4, Bytes4, Packets6, Bytes6 uint64
}

// Packets returns the number of packets dropped, of both families.
func (c Counters) Packets() uint64 { return c.Packets4 + c.Packets6 }
