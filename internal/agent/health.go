package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/plain"
)

const (
	// readEvery is the shortest time between two readings of the kernel or the database for who asks how the agent does.
	readEvery = 100 * time.Millisecond
	// kernelMost is how long the kernel may take to answer before that is what is answered.
	kernelMost = 2 * time.Second
	// maxText is the longest error that the status repeats, in bytes.
	maxText = 500
)

// The values of Status.Source.
const (
	sourceAPI    = "api"
	sourceKept   = "kept"
	sourceCustom = "custom"
	sourceNone   = "none"
)

// ageUnknown is the value of Status.ListAge while the age of the list cannot be told.
const ageUnknown = "unknown"

// now is the published state as it stands at this moment. Two things change it that publish nothing: a list grows old, and
// rules that no table owner protects can be taken away between two looks of the watch.
func (a *Agent) now() Status {
	s := *a.status.Load()
	if s.State == StateActive || s.State == StateDegraded {
		switch err, answered := a.glance.Within(kernelMost); {
		case !answered:
			s.Conditions = withCondition(s.Conditions, conditionRow(condSilent), "", true)
		case err != nil:
			s.Conditions = withCondition(s.Conditions, conditionRow(condMissing), a.detail(err), true)
		}
	}
	s.tellTimes(a.clock)
	old := s.ageKnown && s.age > staleAfter*a.cfg.PullInterval
	s.Conditions = withCondition(s.Conditions, conditionRow(condOld), fmt.Sprintf("the list is %s old", short(s.age)), old)
	s.Conditions = withCondition(s.Conditions, conditionRow(condAge), "", s.LastPull != nil && !s.ageKnown)
	s.settle()
	s.Reason = a.plain(s.Reason)
	switch s.State {
	case StateActive, StateDegraded:
		s.Healthy = true
	case StateDryRun: // it protects nothing
	case StateStarting, StateUnprotected:
		s.BlockedIPs, s.Blocked4, s.Blocked6, s.Verified = 0, 0, 0, nil // what is in force is not known
	}
	switch {
	case s.State == StateStarting, s.State == StateUnprotected:
		s.Source = sourceNone
	case s.LastPull == nil:
		s.Source = sourceCustom
	case s.Kept:
		s.Source = sourceKept
	default:
		s.Source = sourceAPI
	}
	return s
}

// look asks the kernel whether the rules are there. It waits for nobody who changes them.
func (a *Agent) look() error {
	if a.fw == nil {
		return nil
	}
	return a.fw.Present()
}

// dryRunNote is the note of a dry run that does its work, while nothing of SikkerGuard blocks.
const dryRunNote = "dry run: nothing is blocked"

// dryRunText returns the note of a dry run that does its work, of a host on which other rules may
// block.
func dryRunText(s *Status) string {
	switch {
	case s.holds(condLeft):
		return "dry run: rules of another run of SikkerGuard block"
	case s.holds(condLeftUnseen):
		return "dry run: it blocks nothing; whether rules of a killed agent do cannot be seen"
	default:
		return dryRunNote
	}
}

// Health reports whether the agent does what it is configured to do: the rules are in force or, in a dry run, the list is
// current. The text says why not, or that it is a dry run, which protects nothing and is no reason to restart it.
func (a *Agent) Health() (ok bool, text string) {
	err := panics.Contain(func() error {
		ok, text = a.health()
		return nil
	})
	if err != nil {
		a.tellPanic(&helper{name: "health"}, err)
		return false, err.Error()
	}
	return ok, text
}

func (a *Agent) health() (ok bool, text string) {
	s := a.now()
	switch {
	case s.Healthy:
		return true, ""
	case s.State == StateDryRun && s.ageKnown && !s.holds(condOld):
		return true, dryRunText(&s)
	case s.Reason == "" || s.State == StateStarting:
		return false, string(s.State)
	default:
		return false, string(s.State) + ": " + s.Reason
	}
}

// StatusJSON is the status for the health endpoint, of now, however many ask.
func (a *Agent) StatusJSON() any {
	var s Status
	err := panics.Contain(func() error {
		s = a.reading.Get()
		return nil
	})
	if err != nil {
		a.tellPanic(&helper{name: "status"}, err)
		panic(err) // net/http closes the connection
	}
	return s
}

// lost is what the watch calls when somebody else changed the rules. It is published at once: the enforcing task, which
// puts them right, may be waiting for a probe.
func (a *Agent) lost(err error) {
	a.setCondition(condRules, err)
	offer(a.lostC, err)
}

// remember keeps an error for the status, as the one that which points at.
func (a *Agent) remember(err error, which func(*LastErrors) **LastError) {
	if err == nil {
		return
	}
	e := &LastError{Time: *thisSecond(), Text: a.plain(err.Error())}
	a.setStatus(func(s *Status) { *which(&s.Errors) = e })
}

// The last errors that remember keeps.
func pullError(e *LastErrors) **LastError   { return &e.Pull }
func applyError(e *LastErrors) **LastError  { return &e.Apply }
func reportError(e *LastErrors) **LastError { return &e.Report }

// plain returns a text that may come from outside as one bounded line, without the key.
func (a *Agent) plain(text string) string {
	return plain.Line(strings.ReplaceAll(text, a.cfg.APIKey.Reveal(), "[redacted]"), maxText)
}
