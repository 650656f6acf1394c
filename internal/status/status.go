package status

import (
	"maps"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// State is the protection of the host in one word.
type State string

// The states. Rules are active only in the states active and degraded.
const (
	StateStarting    State = "starting"    // nothing was applied yet
	StateActive      State = "active"      // the list is current, active and verified
	StateDegraded    State = "degraded"    // a list is active, and something is wrong: Reason names it
	StateUnprotected State = "unprotected" // nothing is active, or not all of the list: Reason names the cause
	StateDryRun      State = "dry-run"     // the firewall is not touched
)

// Status is the state of the agent as its readers see it. A published value is never changed.
type Status struct {
	State      State      `json:"status"`
	BlockedIPs int        `json:"blockedIps"` // active entries; one that the allowlist splits is one; 0 in a dry run
	LastPull   *time.Time `json:"lastPull"`   // when the last accepted list was pulled
	LastReport *time.Time `json:"lastReport"`
	DryRun     bool       `json:"dryRun"`
	Uptime     string     `json:"uptime"`
	Version    string     `json:"version"`

	Healthy    bool        `json:"healthy"` // the rules are active: false in a dry run
	Reason     string      `json:"reason"`  // why the state is not active; empty if it is
	Blocked4   int         `json:"blockedIpv4"`
	Blocked6   int         `json:"blockedIpv6"`
	WouldBlock int         `json:"wouldBlock"`    // entries that a dry run would block; else 0
	Source     string      `json:"listSource"`    // of the list: api, kept, custom or none
	ListAge    string      `json:"listAge"`       // of the active list; unknown if a clock was wrong
	Kept       bool        `json:"kept"`          // the active list is the saved one of an earlier run
	Custom     int         `json:"customEntries"` // of the custom blacklist
	CustomList *CustomList `json:"customList"`    // null if none is configured
	NextPull   *time.Time  `json:"nextPull"`
	Pulls      Counts      `json:"pulls"`     // by result
	Refused    Counts      `json:"refused"`   // lists refused, by guard
	Rollbacks  int         `json:"rollbacks"` // lists that were rolled back
	Repairs    int         `json:"repairs"`   // restorations of rules that another program changed
	Whitelist  Whitelist   `json:"whitelist"`
	Backend    string      `json:"backend"` // nftables or iptables; empty in a dry run
	Features   []string    `json:"kernelFeatures"`
	Gaps       []string    `json:"gaps"`     // limitations of this host, each with its effect
	Verified   *Verified   `json:"verified"` // null while nothing is active

	Drops

	Reports    *Reports    `json:"reports"` // null while nothing is recorded
	Quota      Quotas      `json:"quota"`
	Errors     LastErrors  `json:"lastErrors"`
	Conditions []Condition `json:"conditions"` // those that hold, the gravest first
	LogDropped uint64      `json:"logDropped"` // log lines that were dropped, because their reader did not read

	Enforcing  State         `json:"-"` // the state if no condition held: starting, active, unprotected or dry-run
	PulledAt   clock.Moment  `json:"-"` // when the list was pulled; the zero Moment before the first
	NextPullAt clock.Moment  `json:"-"` // when the next pull is due; the zero Moment while that is unknown
	Age        time.Duration `json:"-"` // of the list
	AgeKnown   bool          `json:"-"`
}

// Reports counts report rows since the database was created.
type Reports struct {
	Enabled  bool   `json:"enabled"`
	Queued   int    `json:"queued"`
	Sent     uint64 `json:"sent"`
	Rejected uint64 `json:"rejected"`
	Unkept   uint64 `json:"unkept"`  // packets that are not in the history, because their hour had too many sources
	Merged   uint64 `json:"merged"`  // with others of their source, because the queue was full
	Dropped  uint64 `json:"dropped"` // because the queue was full even after merging
}

// CustomList is the custom blacklist, the list in the operator's file.
type CustomList struct {
	Entries  int        `json:"entries"`
	Since    *time.Time `json:"since"`    // when this content was first read, by any run; null if none was
	BadLines int        `json:"badLines"` // lines that are ignored
	Error    string     `json:"error"`    // why the present file is refused; empty if it is not
}

// Whitelist is the size of the allowlist: addresses and networks that are never blocked.
type Whitelist struct {
	IPs    int    `json:"ips"`
	Ranges int    `json:"ranges"`
	Kinds  string `json:"kinds"`  // entries of each source: "gateways 1, resolvers 2"
	Listed int    `json:"listed"` // of IPs and Ranges, the number that the lists hold
}

// Counts has a count for each name.
type Counts map[string]int

// With returns a copy of c in which the count of name is one more.
func (c Counts) With(name string) Counts {
	n := Counts{}
	maps.Copy(n, c)
	n[name]++
	return n
}

// Verified is the last answer of the kernel whether it enforces the list.
type Verified struct {
	At       time.Time `json:"at"`
	Elements int       `json:"elements"` // in the sets; a network can take many
	Counted  bool      `json:"counted"`  // the kernel reported element counts, and they were right
	Sampled  int       `json:"sampled"`  // elements that were looked up one by one, all found
	Seconds  float64   `json:"seconds"`  // from the first request to the last answer
}

// Quotas are the daily quotas of the key; null until the API reports them.
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

// LastErrors are the last errors of each kind; null for none. They stay after the next success.
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

// QuotaOf returns q in the form of the status at now, or nil if q is not known.
func QuotaOf(q sikkerapi.Quota, now time.Time) *Quota {
	if !q.Known {
		return nil
	}
	s := &Quota{Limit: q.Limit, Remaining: q.Remaining, Reset: q.Reset.UTC()}
	const day = 24 * time.Hour
	switch left := s.Reset.Sub(now); {
	case left <= 0: // the quota is renewed each day
		s.Reset, s.Remaining = s.Reset.Add(-left.Truncate(day)+day), s.Limit
	case left > 2*day: // the clock was put back
		s.Reset, s.Remaining = now.UTC().Truncate(day).Add(day), s.Limit
	}
	return s
}

// setTimes sets the times of pulls and the age of the list, by the present clocks.
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
		byBoot := now.Wall.Add(s.NextPullAt.Boot - now.Boot)
		if next.Sub(byBoot) > clock.AlarmTick { // the wall clock was put back
			next = byBoot
		}
		s.NextPull = second(next)
	}
}
