package status

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/coalesce"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/plain"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
)

const (
	// readEvery is the shortest time between two readings of the kernel or the database for readers
	// of the status.
	readEvery = 100 * time.Millisecond
	// kernelMost is the longest wait for an answer of the kernel. A longer one is a condition.
	kernelMost = 2 * time.Second
	// maxText is the length of the longest error in the status, in bytes.
	maxText = 500
	// staleAfter is the age, in pull intervals, from which a list counts as old.
	staleAfter = 3
)

// The values of Status.Source.
const (
	SourceAPI    = "api"
	SourceKept   = "kept"
	SourceCustom = "custom"
	SourceNone   = "none"
)

// ageUnknown is the value of Status.ListAge while the age of the list is unknown.
const ageUnknown = "unknown"

// Options are the dependencies of a Board.
type Options struct {
	Version      string
	DryRun       bool
	Secret       string        // replaced in every text that the board publishes; empty for none
	PullInterval time.Duration // a list older than three of them is old
	Clock        clock.Clock
	Log          *zap.Logger // nil for none

	// Present asks the kernel for the rules. It returns nil if they are there; nil in a dry run.
	Present func() error
	// Fill functions add figures that are read at the moment of the question, such as the kernel's
	// counters. They are called in order.
	Fill []func(*Status)
	// Panicked is called after a reader panicked, with the part of the board that it read; nil for
	// none.
	Panicked func(part string, err error)
}

// Board publishes the status. Parts of the agent write to it, and none reads back from it. Its
// methods may be called by any goroutine.
type Board struct {
	o       Options
	started time.Time

	mu          sync.Mutex // guards writes of latest, and subscribers
	latest      atomic.Pointer[Status]
	subscribers []chan struct{}

	applies prometheus.Histogram

	presence *coalesce.Reader[error]
	reading  *coalesce.Reader[Status]
}

// New returns a Board in the state starting.
func New(o Options) *Board {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Present == nil {
		o.Present = func() error { return nil }
	}
	b := &Board{o: o, started: time.Now(), applies: newApplyDuration()}
	b.presence = coalesce.New(readEvery, func() error { return b.o.Present() })
	b.reading = coalesce.New(readEvery, b.Status)
	b.latest.Store(&Status{State: StateStarting, Enforcing: StateStarting, Version: o.Version, DryRun: o.DryRun})
	return b
}

// Update publishes a copy of the status after change has changed it.
func (b *Board) Update(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := *b.latest.Load()
	change(&s)
	s.settle()
	b.latest.Store(&s)
	for _, c := range b.subscribers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Latest returns the published status, which is never changed. It lacks the figures that are read
// at the moment of a question.
func (b *Board) Latest() *Status { return b.latest.Load() }

// Subscribe returns a channel of capacity 1 that has a value after each change that its reader has
// not seen.
func (b *Board) Subscribe() <-chan struct{} {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subscribers = append(b.subscribers, c)
	return c
}

// SetCondition makes the condition of that code hold, with err as its detail, or ends it if err is
// nil. It logs each transition once.
func (b *Board) SetCondition(code Code, err error) {
	if err == nil && !b.latest.Load().Holds(code) {
		return
	}
	row := rowOf(code)
	began, ended := false, false
	b.Update(func(s *Status) {
		held := s.Holds(code)
		s.Conditions = withCondition(s.Conditions, row, b.detail(err), err != nil)
		began, ended = err != nil && !held, err == nil && held
	})
	switch {
	case row.quiet, code != CondStateDir && statedir.IsUnusable(err):
	case began:
		b.o.Log.Warn(row.message, zap.NamedError("detail", err), zap.String("remedy", row.remedy))
	case ended && row.ended != "":
		b.o.Log.Info(row.ended)
	}
}

// An ErrorField selects one of the last errors.
type ErrorField func(*LastErrors) **LastError

// PullError selects the last error of a pull.
func PullError(e *LastErrors) **LastError { return &e.Pull }

// ApplyError selects the last error of the kernel.
func ApplyError(e *LastErrors) **LastError { return &e.Apply }

// ReportError selects the last error of a report.
func ReportError(e *LastErrors) **LastError { return &e.Report }

// SetError stores err in the field of LastErrors that field selects. A nil err is ignored.
func (b *Board) SetError(field ErrorField, err error) {
	if err == nil {
		return
	}
	e := &LastError{Time: *ThisSecond(), Text: b.Plain(err.Error())}
	b.Update(func(s *Status) { *field(&s.Errors) = e })
}

// ObserveApply records the time in which the kernel activated rules and proved them.
func (b *Board) ObserveApply(took time.Duration) { b.applies.Observe(took.Seconds()) }

// Plain returns a text from outside as one bounded line without the secret.
func (b *Board) Plain(text string) string {
	if b.o.Secret != "" {
		text = strings.ReplaceAll(text, b.o.Secret, "[redacted]")
	}
	return plain.Line(text, maxText)
}

// detail returns the text of err as the status shows it; empty for nil.
func (b *Board) detail(err error) string {
	if err == nil {
		return ""
	}
	return b.Plain(err.Error())
}

// Now returns the published status as it is at this moment. Two changes come without an Update: a
// list grows old, and another program can remove rules that no table owner protects between two
// checks of the watch.
func (b *Board) Now() Status {
	s := *b.latest.Load()
	if s.State == StateActive || s.State == StateDegraded {
		switch err, answered := b.presence.Within(kernelMost); {
		case !answered:
			s.Conditions = withCondition(s.Conditions, rowOf(CondSilent), "", true)
		case err != nil:
			s.Conditions = withCondition(s.Conditions, rowOf(CondMissing), b.detail(err), true)
		}
	}
	s.setTimes(b.o.Clock)
	old := s.AgeKnown && s.Age > staleAfter*b.o.PullInterval
	s.Conditions = withCondition(s.Conditions, rowOf(CondOld), fmt.Sprintf("the list is %s old", Short(s.Age)), old)
	s.Conditions = withCondition(s.Conditions, rowOf(CondAge), "", s.LastPull != nil && !s.AgeKnown)
	s.settle()
	s.Reason = b.Plain(s.Reason)
	switch s.State {
	case StateActive, StateDegraded:
		s.Healthy = true
	case StateDryRun: // it protects nothing
	case StateStarting, StateUnprotected:
		s.BlockedIPs, s.Blocked4, s.Blocked6, s.Verified = 0, 0, 0, nil // the rules in the kernel are unknown
	}
	switch {
	case s.State == StateStarting, s.State == StateUnprotected:
		s.Source = SourceNone
	case s.LastPull == nil:
		s.Source = SourceCustom
	case s.Kept:
		s.Source = SourceKept
	default:
		s.Source = SourceAPI
	}
	return s
}

// Status returns Now with the figures that the Fill functions read at this moment.
func (b *Board) Status() Status {
	s := b.Now()
	s.Features, s.Gaps = []string{}, []string{} // JSON arrays, not null; the maps also
	if s.Conditions == nil {
		s.Conditions = []Condition{}
	}
	s.Pulls, s.Refused = maps.Clone(s.Pulls), maps.Clone(s.Refused)
	if s.Pulls == nil {
		s.Pulls = Counts{}
	}
	if s.Refused == nil {
		s.Refused = Counts{}
	}
	s.Uptime = Short(time.Since(b.started))
	switch {
	case s.AgeKnown:
		s.ListAge = Short(s.Age)
	case s.LastPull != nil:
		s.ListAge = ageUnknown
	}
	for _, fill := range b.o.Fill {
		fill(&s)
	}
	return s
}

// Health reports whether the agent does its configured work: the rules are active, or the list of a
// dry run is current. The text is the reason if it does not. In a dry run that does its work the
// text says that nothing is blocked; that is no reason to restart the agent.
func (b *Board) Health() (ok bool, text string) {
	err := panics.Contain(func() error {
		ok, text = b.health()
		return nil
	})
	if err != nil {
		b.panicked("health", err)
		return false, err.Error()
	}
	return ok, text
}

func (b *Board) health() (ok bool, text string) {
	s := b.Now()
	switch {
	case s.Healthy:
		return true, ""
	case s.State == StateDryRun && s.AgeKnown && !s.Holds(CondOld):
		return true, dryRunText(&s)
	case s.Reason == "" || s.State == StateStarting:
		return false, string(s.State)
	default:
		return false, string(s.State) + ": " + s.Reason
	}
}

// StatusJSON returns the current status for the health endpoint. Concurrent callers share one
// reading.
func (b *Board) StatusJSON() any {
	var s Status
	err := panics.Contain(func() error {
		s = b.reading.Get()
		return nil
	})
	if err != nil {
		b.panicked("status", err)
		panic(err) // net/http closes the connection
	}
	return s
}

func (b *Board) panicked(part string, err error) {
	if _, ok := errors.AsType[*panics.Error](err); ok && b.o.Panicked != nil {
		b.o.Panicked(part, err)
	}
}

// dryRunNote is the note of a dry run that does its work, on a host without rules of SikkerGuard.
const dryRunNote = "dry run: nothing is blocked"

// dryRunText returns the note of a dry run that does its work, on a host where other rules may
// block.
func dryRunText(s *Status) string {
	switch {
	case s.Holds(CondLeft):
		return "dry run: rules of another run of SikkerGuard block"
	case s.Holds(CondLeftUnseen):
		return "dry run: it blocks nothing; it cannot see whether rules of a killed agent do"
	default:
		return dryRunNote
	}
}

// lineMost is the length of the longest Line, in bytes. A service manager drops a longer message.
const lineMost = 512

// Line returns the published state as one line of text, for a service manager. Quoted text from
// outside cannot begin a new line.
func (b *Board) Line() string {
	s := b.latest.Load()
	line := string(s.State)
	switch s.State {
	case StateStarting:
		line = "Starting"
	case StateActive:
		line = fmt.Sprintf("Blocking %d IPs", s.BlockedIPs)
	case StateDegraded:
		line = fmt.Sprintf("Blocking %d IPs, degraded: %s", s.BlockedIPs, s.Reason)
	case StateUnprotected:
		line = strings.TrimSuffix("Unprotected: "+s.Reason, ": ")
	case StateDryRun:
		line = fmt.Sprintf("Dry run, nothing is blocked: would block %d IPs", s.WouldBlock)
		if text := dryRunText(s); text != dryRunNote {
			line = fmt.Sprintf("D%s; would block %d IPs", text[1:], s.WouldBlock)
		}
		if s.Reason != "" {
			line += ", " + s.Reason
		}
	}
	return plain.Line(line, lineMost)
}

// Short returns d in its two largest units: 24h, 2h 15m, 30m, 12s.
func Short(d time.Duration) string {
	h, m := int(d.Hours()), int(d.Minutes())%60
	switch {
	case h > 0 && m > 0:
		return fmt.Sprintf("%dh %dm", h, m)
	case h > 0:
		return fmt.Sprintf("%dh", h)
	case m > 0:
		return fmt.Sprintf("%dm", m)
	default:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
}

// ThisSecond returns the present time in the form of the status: UTC, to the second.
func ThisSecond() *time.Time {
	t := time.Now().UTC().Truncate(time.Second)
	return &t
}
