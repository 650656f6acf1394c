package status

import (
	"maps"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// State is how well the host is protected, in one word.
type State string

// The states. Only active and degraded mean that rules are in force.
const (
	StateStarting    State = "starting"    // nothing was tried yet
	StateActive      State = "active"      // the list is current, in force and verified
	StateDegraded    State = "degraded"    // a list is in force, but not the one wanted: Reason says why
	StateUnprotected State = "unprotected" // nothing is in force, or not all of the list: Reason says why
	StateDryRun      State = "dry-run"     // nothing is touched
)

// Status is what the agent says of itself. A value that was published is never changed.
type Status struct {
	State      State      `json:"status"`
	BlockedIPs int        `json:"blockedIps"` // entries in force: addresses, and networks as one each, also those that the whitelist splits; 0 in a dry run
	LastPull   *time.Time `json:"lastPull"`   // the last list that was accepted
	LastReport *time.Time `json:"lastReport"`
	DryRun     bool       `json:"dryRun"`
	Uptime     string     `json:"uptime"`
	Version    string     `json:"version"`

	Healthy    bool              `json:"healthy"` // the rules are in force: false in a dry run
	Reason     string            `json:"reason"`  // why the state is not active; empty when it is
	Blocked4   int               `json:"blockedIpv4"`
	Blocked6   int               `json:"blockedIpv6"`
	WouldBlock int               `json:"wouldBlock"`    // entries that a dry run would block; else 0
	Source     string            `json:"listSource"`    // of the list in force, or that a dry run would put in force: api, kept, custom or none
	ListAge    string            `json:"listAge"`       // of the list in force; unknown if a clock was wrong; empty while there is none
	Kept       bool              `json:"kept"`          // the list in force is the one kept from the last run
	Custom     int               `json:"customEntries"` // of the operator's own list
	CustomList *CustomList       `json:"customList"`    // null if none is configured
	NextPull   *time.Time        `json:"nextPull"`
	Pulls      Counts            `json:"pulls"`     // by what came of them
	Refused    Counts            `json:"refused"`   // lists refused, by guard
	Rollbacks  int               `json:"rollbacks"` // lists taken out of force again
	Repairs    int               `json:"repairs"`   // times that rules were put back which another program changed
	Whitelist  Whitelist         `json:"whitelist"`
	Backend    string            `json:"backend"` // nftables or iptables; empty in a dry run
	Features   []string          `json:"kernelFeatures"`
	Gaps       []string          `json:"gaps"`     // what this host could not give, and what that means
	Verified   *Verified         `json:"verified"` // null while nothing is in force
	Dropped    *Dropped          `json:"dropped"`  // null while the kernel has no counters of ours
	Events     Events            `json:"events"`
	Unrecorded uint64            `json:"unrecorded"` // packets seen that the database did not take for so long that they were let go
	Hits       map[string]uint64 `json:"hits"`       // of the packets seen: by service, as SIKKER_PORT_MAP names it, or other
	Reports    *Reports          `json:"reports"`    // null when nothing is recorded
	Quota      Quotas            `json:"quota"`
	Errors     LastErrors        `json:"lastErrors"`
	Conditions []Condition       `json:"conditions"` // those that hold, the gravest first
	LogDropped uint64            `json:"logDropped"` // log lines that their reader did not take

	Enforcing    State         `json:"-"` // the state if no condition held: starting, active, unprotected or dry-run
	PulledAt     clock.Moment  `json:"-"` // when the list was pulled; the zero Moment before the first
	NextPullAt   clock.Moment  `json:"-"` // when the next pull is due; the zero Moment while that is unknown
	Age          time.Duration `json:"-"` // of the list
	AgeKnown     bool          `json:"-"`
	Unattributed uint64        `json:"-"` // packets dropped without an event, but for those on their way; it never goes back
}

// Reports is what has become of reports since the database was made, in rows: one a source and service.
type Reports struct {
	Enabled  bool   `json:"enabled"`
	Queued   int    `json:"queued"`
	Sent     uint64 `json:"sent"`
	Rejected uint64 `json:"rejected"`
	Unkept   uint64 `json:"unkept"`  // packets that are not in the history by hour, because an hour had too many sources
	Merged   uint64 `json:"merged"`  // with others of their source, because the queue was full
	Dropped  uint64 `json:"dropped"` // because it was full all the same
}

// CustomList is the operator's own list.
type CustomList struct {
	Entries  int        `json:"entries"`
	Since    *time.Time `json:"since"`    // when this content was first read, maybe by an earlier run; null if none was
	BadLines int        `json:"badLines"` // lines that are left out
	Error    string     `json:"error"`    // why the file, as it is now, is not taken; empty if it is
}

// Whitelist is how much is protected from being blocked.
type Whitelist struct {
	IPs    int    `json:"ips"`
	Ranges int    `json:"ranges"`
	Kinds  string `json:"kinds"`
	Listed int    `json:"listed"` // of those, how many the list holds: they are not blocked
}

// Counts counts things by name.
type Counts map[string]int

// With is c with one more; c stays as it is.
func (c Counts) With(name string) Counts {
	n := Counts{}
	maps.Copy(n, c)
	n[name]++
	return n
}

// Verified is what the kernel answered when it was asked last whether it enforces the list.
type Verified struct {
	At       time.Time `json:"at"`
	Elements int       `json:"elements"` // in the sets: a network can take many
	Counted  bool      `json:"counted"`  // the kernel told its element counts, and they were right
	Sampled  int       `json:"sampled"`  // elements that were looked up one by one, all found
	Seconds  float64   `json:"seconds"`  // from the first request to the last answer
}

// Quotas are the daily quotas of the key; null while the API did not tell.
type Quotas struct {
	Pulls   *Quota `json:"pulls"`
	Reports *Quota `json:"reports"`
}

// Quota is one daily quota.
type Quota struct {
	Limit     int       `json:"limit"`
	Remaining int       `json:"remaining"`
	Reset     time.Time `json:"reset"`
}

// LastErrors are the last errors of each kind; null for none. They stay when it works again.
type LastErrors struct {
	Pull   *LastError `json:"pull"`
	Apply  *LastError `json:"apply"`
	Report *LastError `json:"report"`
}

// LastError is an error of the past.
type LastError struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"` // one line, without the key
}

// Dropped is what was dropped since the database was made, read from the kernel when asked. It never goes back.
type Dropped struct {
	Packets4 uint64 `json:"packetsIpv4"`
	Bytes4   uint64 `json:"bytesIpv4"`
	Packets6 uint64 `json:"packetsIpv6"`
	Bytes6   uint64 `json:"bytesIpv6"`
	Exact    bool   `json:"exact"` // false when a run was killed, whose last second is not in them, or the database was lost
}

// Events is what became of the packets dropped since this process began: Dropped is Seen, Lost and Unattributed
// together.
type Events struct {
	Dropped      uint64 `json:"dropped"`
	Seen         uint64 `json:"seen"`         // came by NFLOG
	Lost         uint64 `json:"lost"`         // sent by the kernel and not received
	Unattributed uint64 `json:"unattributed"` // beyond the log rate, or on their way at this moment

	Unparsed uint64 `json:"unparsed"` // of those seen: with headers that could not be read
	Overflow uint64 `json:"overflow"` // of those seen: from more sources in one window than are kept
}

// QuotaOf returns the quota as the status shows it at now, or nil if q is not known.
func QuotaOf(q sikkerapi.Quota, now time.Time) *Quota {
	if !q.Known {
		return nil
	}
	s := &Quota{Limit: q.Limit, Remaining: q.Remaining, Reset: q.Reset.UTC()}
	const day = 24 * time.Hour
	switch left := s.Reset.Sub(now); {
	case left <= 0: // it is there again, each day
		s.Reset, s.Remaining = s.Reset.Add(-left.Truncate(day)+day), s.Limit
	case left > 2*day: // the clock was put back
		s.Reset, s.Remaining = now.UTC().Truncate(day).Add(day), s.Limit
	}
	return s
}

// setTimes fills in the times of pulls and the age of the list, by the clocks as they are now.
func (s *Status) setTimes(c clock.Clock) {
	second := func(t time.Time) *time.Time {
		t = t.UTC().Truncate(time.Second)
		return &t
	}
	s.LastPull, s.NextPull = nil, nil
	if s.PulledAt != (clock.Moment{}) {
		s.LastPull = second(c.WallOf(s.PulledAt))
		s.Age, s.AgeKnown = c.Age(s.PulledAt)
	}
	if s.NextPullAt != (clock.Moment{}) {
		now := c.Now()
		next := s.NextPullAt.Wall
		if byBoot := now.Wall.Add(s.NextPullAt.Boot - now.Boot); next.Sub(byBoot) > clock.AlarmTick { // the wall clock was put back
			next = byBoot
		}
		s.NextPull = second(next)
	}
}
