package status

import (
	"slices"
	"strings"
	"time"
)

// Severity is the gravity of a condition.
type Severity string

// The severities, the gravest first.
const (
	SeverityUnprotected Severity = "unprotected" // no rules are active, or not the wanted ones
	SeverityDegraded    Severity = "degraded"    // something is wrong; rules that are active stay active
	SeverityWarning     Severity = "warning"     // the operator should know it; the state stays
)

// Code names a condition. Codes are stable: they label a metric.
type Code string

// The conditions.
const (
	CondRules      Code = "rules-changed"
	CondMissing    Code = "rules-missing"
	CondRefresh    Code = "refresh-failed"
	CondNoList     Code = "no-list"
	CondRefused    Code = "list-refused"
	CondRolledBack Code = "list-rolled-back"
	CondKernel     Code = "kernel-refuses"
	CondTrial      Code = "list-on-trial"
	CondOpen       Code = "list-partly-open"
	CondUnkept     Code = "list-not-kept"
	CondOld        Code = "list-old"
	CondWhitelist  Code = "whitelist-stale"
	CondCovered    Code = "whitelist-covers-lists"
	CondEmpty      Code = "nothing-blocked"
	CondCustom     Code = "custom-list"
	CondLog        Code = "log-stalled"
	CondAge        Code = "list-age-unknown"
	CondReports    Code = "reports-kept"
	CondSurvey     Code = "whitelist-incomplete"
	CondExempt     Code = "needed-is-listed"
	CondDryRun     Code = "dry-run"
	CondLeft       Code = "leftover-rules"
	CondLeftUnseen Code = "leftover-unknown"
	CondNamespace  Code = "namespace-alone"
	CondBridged    Code = "guests-not-covered"

	CondSilent        Code = "kernel-silent"
	CondStuck         Code = "enforcer-stuck"
	CondStateDir      Code = "state-dir"
	CondHealth        Code = "health-port"
	CondSensor        Code = "nflog"
	CondCounts        Code = "counts-unread"
	CondControl       Code = "control-socket"
	CondDatabase      Code = "database"
	CondDatabaseHangs Code = "database-hangs"
	CondHostWatch     Code = "host-watch"
	CondRulesWatch    Code = "rules-watch"
	CondTask          Code = "task-failed"
)

// row is one row of the table: a state in which the agent is less than well. It holds until its own
// cause ends.
type row struct {
	code     Code
	severity Severity
	hiddenBy Code   // while that one holds, this one is no reason of the state; empty for none
	message  string // a sentence without a full stop; begins the log line
	ended    string // the log line after its end; empty for none
	remedy   string // one or more sentences to the operator
	quiet    bool   // the part that sets it logs it, with more detail than the table has
}

// Condition is a condition that holds.
type Condition struct {
	Code     Code      `json:"code"`
	Severity Severity  `json:"severity"`
	Message  string    `json:"message"`
	Detail   string    `json:"detail"` // one line, without the key; may be empty
	Since    time.Time `json:"since"`
	Remedy   string    `json:"remedy"`
}

// reason returns the message with the detail. The message is the subject of the detail.
func (c Condition) reason() string {
	if c.Detail != "" {
		return c.Message + ": " + c.Detail
	}
	return c.Message
}

// Message returns the message of the condition of a code, without a detail.
func Message(code Code) string { return rowOf(code).message }

// rowOf returns the row of a code. Each code has one.
func rowOf(code Code) row {
	table := rows()
	return table[slices.IndexFunc(table, func(c row) bool { return c.code == code })]
}

// withCondition returns a copy of held with the condition of row in it, or without it, in the order
// of the table. A condition that holds already keeps its Since.
func withCondition(held []Condition, row row, detail string, holds bool) []Condition {
	since := *ThisSecond()
	var now []Condition
	for _, r := range rows() {
		i := slices.IndexFunc(held, func(c Condition) bool { return c.Code == r.code })
		switch {
		case r.code == row.code && holds:
			if i >= 0 {
				since = held[i].Since
			}
			now = append(now, Condition{r.code, r.severity, r.message, detail, since, r.remedy})
		case r.code != row.code && i >= 0:
			now = append(now, held[i])
		}
	}
	return now
}

// Holds reports whether the condition of that code holds.
func (s *Status) Holds(code Code) bool {
	return slices.ContainsFunc(s.Conditions, func(c Condition) bool { return c.Code == code })
}

// settle derives the state and its reason from Enforcing and from the conditions that hold. If the
// reasons of several are longer than maxText, the details are left out, so that each condition is
// named.
func (s *Status) settle() {
	s.State = s.Enforcing
	var reasons, messages []string
	for _, c := range s.Conditions {
		if hidden := rowOf(c.Code).hiddenBy; hidden != "" && s.Holds(hidden) || c.Severity == SeverityWarning {
			continue
		}
		reasons, messages = append(reasons, c.reason()), append(messages, c.Message)
		switch {
		case s.State == StateActive && c.Severity == SeverityDegraded:
			s.State = StateDegraded
		case (s.State == StateActive || s.State == StateDegraded) && c.Severity == SeverityUnprotected:
			s.State = StateUnprotected
		}
	}
	if s.Reason = strings.Join(reasons, "; "); len(s.Reason) > maxText && len(reasons) > 1 {
		s.Reason = strings.Join(messages, "; ")
	}
}
