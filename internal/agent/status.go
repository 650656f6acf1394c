package agent

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

// State is how well the host is protected, in one word.
type State string

// The states. Only active and degraded mean that rules are in force.
const (
	StateStarting    State = "starting"    // nothing was tried yet
	StateActive      State = "active"      // the list is current, in force and verified
	StateDegraded    State = "degraded"    // a list is in force, but not the one wanted: Reason says why
	StateUnprotected State = "unprotected" // nothing is in force: Reason says why
	StateDryRun      State = "dry-run"     // nothing is touched
)

// Status is what the agent says of itself. A value that was published is never changed.
type Status struct {
	State      State      `json:"status"`
	BlockedIPs int        `json:"blockedIps"` // entries of the list in force: addresses, and networks as one each
	LastPull   *time.Time `json:"lastPull"`   // the last list that was accepted
	LastReport *time.Time `json:"lastReport"`
	DryRun     bool       `json:"dryRun"`
	Uptime     string     `json:"uptime"`
	Version    string     `json:"version"`

	Reason    string          `json:"reason"` // why the state is not active; empty when it is
	Blocked4  int             `json:"blockedIpv4"`
	Blocked6  int             `json:"blockedIpv6"`
	Whitelist WhitelistStatus `json:"whitelist"`
	Backend   string          `json:"backend"` // nftables or iptables; empty in a dry run
	Features  []string        `json:"kernelFeatures"`
	Gaps      []string        `json:"gaps"`    // what this host could not give, and what that means
	ListAge   string          `json:"listAge"` // of the list in force; empty while there is none
	Kept      bool            `json:"kept"`    // the list in force is the one kept from the last run
	NextPull  *time.Time      `json:"nextPull"`
	Refused   Refusals        `json:"refused"`   // lists refused, by guard
	Rollbacks int             `json:"rollbacks"` // lists taken out of force again
	Repairs   int             `json:"repairs"`   // times that rules were put back which another program changed
	Dropped   *DroppedStatus  `json:"dropped"`   // null while the kernel has no counters of ours
	Events    EventsStatus    `json:"events"`
	Reports   *ReportsStatus  `json:"reports"` // null when nothing is recorded
}

// ReportsStatus is what has become of reports since the database was made, in rows: one a source and service.
type ReportsStatus struct {
	Enabled  bool   `json:"enabled"`
	Queued   int    `json:"queued"`
	Sent     uint64 `json:"sent"`
	Rejected uint64 `json:"rejected"`
	Merged   uint64 `json:"merged"`  // with others of their source, because the queue was full
	Dropped  uint64 `json:"dropped"` // because it was full all the same
}

// WhitelistStatus is how much is protected from being blocked.
type WhitelistStatus struct {
	IPs    int    `json:"ips"`
	Ranges int    `json:"ranges"`
	Kinds  string `json:"kinds"`
}

// Refusals counts refused lists by the guard that spoke.
type Refusals map[string]int

// with is r with one more refusal; r stays as it is.
func (r Refusals) with(guard string) Refusals {
	n := Refusals{}
	maps.Copy(n, r)
	n[guard]++
	return n
}

// DroppedStatus is what was dropped since the database was made, read from the kernel when asked. It never goes back.
type DroppedStatus struct {
	Packets4 uint64 `json:"packetsIpv4"`
	Bytes4   uint64 `json:"bytesIpv4"`
	Packets6 uint64 `json:"packetsIpv6"`
	Bytes6   uint64 `json:"bytesIpv6"`
}

// EventsStatus is what became of the packets dropped since this process began: Dropped is Seen, Lost and Unattributed
// together.
type EventsStatus struct {
	Dropped      uint64 `json:"dropped"`
	Seen         uint64 `json:"seen"`         // came by NFLOG
	Lost         uint64 `json:"lost"`         // sent by the kernel and not received
	Unattributed uint64 `json:"unattributed"` // beyond the log rate, or on their way at this moment

	Unparsed uint64 `json:"unparsed"` // of those seen: with headers that could not be read
	Overflow uint64 `json:"overflow"` // of those seen: from more sources in one window than are kept
}

// setStatus publishes a changed copy of the status.
func (a *Agent) setStatus(change func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := *a.status.Load()
	change(&s)
	a.status.Store(&s)
	offer(a.changedC, struct{}{})
}

// Status is the status now, with the kernel's counters read at this moment.
func (a *Agent) Status() Status {
	s := *a.status.Load()
	s.Features, s.Gaps = []string{}, []string{} // not null
	s.Uptime = short(time.Since(a.started))
	if s.LastPull != nil {
		s.ListAge = short(s.age())
	}
	if age, limit := s.age(), staleAfter*a.cfg.PullInterval; s.State == StateActive && age > limit {
		s.State, s.Reason = StateDegraded, fmt.Sprintf("the list is %s old", short(age))
	}
	if a.fw != nil {
		i := a.fw.Info()
		s.Backend, s.Features, s.Gaps = i.Name, append(s.Features, i.Features...), append(s.Gaps, i.Gaps...)
		if sum, since, err := a.dropped(); err == nil {
			s.Dropped = &DroppedStatus{Packets4: sum.Packets4, Bytes4: sum.Bytes4, Packets6: sum.Packets6, Bytes6: sum.Bytes6}
			s.Events = events(a.sensor.Totals(), since.Packets())
		}
	}
	if a.store != nil {
		s.Reports = a.reports()
	}
	return s
}

// reports asks the database, nil when it does not answer.
func (a *Agent) reports() *ReportsStatus {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n, err := a.store.Queued(ctx)
	if err != nil {
		return nil
	}
	t, err := a.store.Totals(ctx)
	if err != nil {
		return nil
	}
	return &ReportsStatus{
		Enabled: a.cfg.ReportEnabled, Queued: n, Sent: t.Sent, Rejected: t.Rejected, Merged: t.Merged, Dropped: t.Dropped,
	}
}

// age is how old the list is.
func (s Status) age() time.Duration {
	if s.LastPull == nil {
		return 0
	}
	return time.Since(*s.LastPull)
}

// events makes the figures add up. The counter is read first, so events may have come since: then more was dropped too.
func events(t sensor.Totals, dropped uint64) EventsStatus {
	seen := t.Events + t.Lost
	dropped = max(dropped, seen)
	return EventsStatus{
		Dropped: dropped, Seen: t.Events, Lost: t.Lost, Unattributed: dropped - seen, Unparsed: t.Unparsed, Overflow: t.Overflow,
	}
}

// StatusJSON is the status for the health endpoint.
func (a *Agent) StatusJSON() any { return a.Status() }

// Health says whether the rules are in force, or in a dry run whether the list is current, and if not why.
func (a *Agent) Health() (ok bool, reason string) {
	s := a.status.Load()
	switch {
	case s.State == StateActive, s.State == StateDegraded, s.State == StateDryRun && s.Reason == "":
		return true, ""
	case s.State == StateStarting:
		return false, string(s.State)
	default:
		return false, string(s.State) + ": " + s.Reason
	}
}
