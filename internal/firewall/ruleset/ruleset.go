// Package ruleset is what the firewall is asked to enforce, and the evidence that it does: the values that the agent,
// the choice of a backend and the backends share. It does nothing itself, so nothing here can fail.
package ruleset

import (
	"errors"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// ErrMismatch means that the kernel took what it was told and enforces something else.
var ErrMismatch = errors.New("the kernel does not enforce what it was told")

// Info is what enforces, and what the host could give of what was wanted: for the log, the status and the metrics.
type Info struct {
	Name     string   // nftables or iptables
	Reason   string   // why that one, a few words
	Features []string // what of the kernel is in use, a word or two each: "table owner"
	Gaps     []string // what is missing and what that means, a sentence each; empty when nothing is
	Detours  []string // what is missing, and the slower way that the backend takes to the same protection, a sentence each
}

// Ruleset is the whole desired state. A backend makes it true, or changes nothing.
type Ruleset struct {
	Block    blocklist.Blocklist // sources whose packets are dropped
	Allow    blocklist.Blocklist // sources whose packets never are, whatever Block holds
	LogGroup uint16              // NFLOG group that dropped packets are copied to
	LogRate  uint32              // packets a second that are copied at most; the drop has no limit
}

// Evidence is what the kernel answered when asked what it enforces. Only a backend makes one, after asking.
type Evidence struct {
	Entries4, Entries6 int           // entries of Block, of each family
	Elements           int           // set elements those entries take
	Counted            bool          // the kernel told its element counts, and they were right
	Sampled            int           // elements that were looked up one by one, all found
	Took               time.Duration // from the first request to the last answer
}

// Entries is the number of addresses and networks enforced.
func (e Evidence) Entries() int { return e.Entries4 + e.Entries6 }

// Counters are packets and bytes dropped since the rules were first put in place, by the family of the source.
type Counters struct {
	Packets4, Bytes4, Packets6, Bytes6 uint64
}

// Packets is the number of packets dropped of both families.
func (c Counters) Packets() uint64 { return c.Packets4 + c.Packets6 }
