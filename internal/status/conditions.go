package status

import (
	"slices"
	"strings"
	"time"
)

// Severity is how much a condition matters.
type Severity string

// The severities, the gravest first.
const (
	SeverityUnprotected Severity = "unprotected" // rules are not in force, or not those wanted
	SeverityDegraded    Severity = "degraded"    // rules are in force, and something is not as it should be
	SeverityWarning     Severity = "warning"     // the operator should know; the state stays
)

// Code names a condition. Codes are stable: they label a metric.
type Code string

// The conditions.
const (
	CondRules      Code = "rules-changed"
	CondMissing    Code = "rules-missing"
	CondRefresh    Code = "refresh-failed"
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
	CondControl       Code = "control-socket"
	CondDatabase      Code = "database"
	CondDatabaseHangs Code = "database-hangs"
	CondHostWatch     Code = "host-watch"
	CondRulesWatch    Code = "rules-watch"
	CondTask          Code = "task-failed"
)

// row is one row of the table: a state in which the agent is less than well. It holds until its own cause ends.
type row struct {
	code     Code
	severity Severity
	hiddenBy Code   // while that one holds, this one does not show; empty for none
	message  string // what holds, a sentence without a full stop; begins its log line
	ended    string // the log line when it has ended; empty for none
	remedy   string // what the operator can do, a sentence
	quiet    bool   // its owner logs it, with more detail than the table has
}

// rows is the table of all of them, the gravest first. It drives the status, the log, the metric and
// docs/conditions.md.
func rows() []row {
	return []row{
		{
			code: CondRules, severity: SeverityUnprotected, quiet: true,
			message: "The firewall rules are not the ones that were applied",
			remedy:  "They are restored by themselves. Find the program that changes them: `nft monitor` shows it.",
		},
		{
			code: CondMissing, severity: SeverityUnprotected, hiddenBy: CondRules, quiet: true,
			message: "The kernel does not have the firewall rules",
			remedy:  "They are restored by themselves within seconds. If they are not, restart the agent.",
		},
		{
			code: CondSilent, severity: SeverityUnprotected, quiet: true,
			message: "The kernel does not answer whether it has the firewall rules",
			remedy:  "Look at the load of this host, and in `dmesg`. Another program may hold the firewall, as one that loads a large ruleset does.",
		},
		{
			code: CondOpen, severity: SeverityUnprotected,
			message: "Addresses of the list are let through for moments, to find out whether this host needs them",
			remedy:  "Wait: it takes seconds. The log says what came of it.",
		},
		{
			code: CondStuck, severity: SeverityDegraded,
			message: "The task that enforces the list does not go on; it takes no new list and repairs no rules",
			ended:   "The task that enforces the list goes on",
			remedy:  "Restart the agent if it lasts. Its stacks (SIGQUIT ends it and prints them) say where it hangs.",
		},
		{
			code: CondRefresh, severity: SeverityDegraded, quiet: true,
			message: "The last refresh of the list did not succeed",
			remedy:  "The detail says why. It is tried again by itself; `sikkerguard pull` tries at once.",
		},
		{
			code: CondRefused, severity: SeverityDegraded, quiet: true,
			message: "A guard refused the list that the API gave",
			remedy: "The detail says why. If it names `sikkerguard pull --accept` and the list is right, run that. It ends with the next " +
				"list that passes.",
		},
		{
			code: CondRolledBack, severity: SeverityDegraded, quiet: true,
			message: "The list was taken out of force again, because with it this host reached less",
			remedy: "Add the addresses that the detail names to `SIKKER_WHITELIST`, or take them out of your own list. The list is tried " +
				"again after an hour, if it differs, or by `sikkerguard pull --accept`.",
		},
		{
			code: CondKernel, severity: SeverityDegraded, quiet: true,
			message: "The kernel does not take the rules that are wanted",
			remedy:  "The detail says what it answered. The list at hand is tried again by itself, without another pull.",
		},
		{
			code: CondTrial, severity: SeverityDegraded,
			message: "This host reaches less than before, and rules are out of force for moments to find out whether the list is why",
			remedy:  "Wait: it takes seconds. The log says what came of it.",
		},
		{
			code: CondOld, severity: SeverityDegraded, hiddenBy: CondRefresh, quiet: true,
			message: "The list is older than three pull intervals",
			remedy:  "Look in the log for the reason that no newer one was taken.",
		},
		{
			code: CondWhitelist, severity: SeverityDegraded, quiet: true,
			message: "The rules in force lack the newest whitelist or custom blacklist",
			remedy:  "It is tried again by itself. The detail says what the kernel answered.",
		},
		{
			code: CondCovered, severity: SeverityDegraded,
			message: "The whitelist covers everything that the lists hold: nothing is blocked",
			ended:   "The whitelist no longer covers everything that the lists hold",
			remedy: "Look for entries of SIKKER_WHITELIST that are too wide. If it is unset, the lists name only addresses that this host " +
				"depends on; it ends with a list that names others.",
		},
		{
			code: CondEmpty, severity: SeverityDegraded, hiddenBy: CondCovered,
			message: "The list in force is empty: nothing is blocked",
			ended:   "The list in force is no longer empty",
			remedy: "Look whether an empty list was accepted, and at SIKKER_SCORE_MIN. `sikkerguard pull` pulls the list now; it ends " +
				"with a list that has entries.",
		},
		{
			code: CondCustom, severity: SeverityDegraded, quiet: true,
			message: "The custom blacklist cannot be taken as its file is now; what it held before stays",
			remedy: "The detail says why. Correct the file; it is read at each pull, and at once with `kill -HUP`. " +
				"A file with nothing but a comment empties the list.",
		},
		{
			code: CondLog, severity: SeverityDegraded, quiet: true, // a line about it would be dropped, too
			message: "The log does not reach its reader, and lines are dropped when its buffer is full",
			remedy: "Look at what reads the agent's output: a stopped terminal, a full disk, journald, Docker's log driver. " +
				"If it is gone for good, restart the agent when that suits you.",
		},
		{
			code: CondStateDir, severity: SeverityDegraded,
			message: "The state directory is not used: no list, history or report is kept over a restart; blocking does not depend on it",
			ended:   "The state directory is used",
			remedy:  "The detail says what to change. It is tried again by itself.",
		},
		{
			code: CondUnkept, severity: SeverityDegraded, hiddenBy: CondStateDir, quiet: true,
			message: "The list in force is not on the disk; a start without the API would not protect",
			remedy:  "Make room on the disk of `SIKKER_STATE_DIR`, or let it be written. It is tried again every minute.",
		},
		{
			code: CondHealth, severity: SeverityDegraded,
			message: "The health endpoint is not available; blocking does not depend on it",
			ended:   "The health endpoint is available",
			remedy: "If another program has the port, stop that program, or set SIKKER_HEALTH_PORT to a free one and restart the agent. " +
				"It is tried again by itself.",
		},
		{
			code: CondSensor, severity: SeverityDegraded,
			message: "Blocked connections are not seen, and so neither logged nor reported; blocking does not depend on it",
			ended:   "Blocked connections are seen",
			remedy: "If another program listens to the NFLOG group, stop that program, or set SIKKER_NFLOG_GROUP to another and restart the " +
				"agent. It is tried again by itself.",
		},
		{
			code: CondControl, severity: SeverityDegraded, hiddenBy: CondStateDir,
			message: "`sikkerguard pull` does not reach this agent; blocking does not depend on it",
			ended:   "`sikkerguard pull` reaches this agent",
			remedy:  "The detail says why its socket in SIKKER_STATE_DIR cannot be made. It is tried again by itself; SIGHUP is a pull, too.",
		},
		{
			code: CondDatabase, severity: SeverityDegraded, hiddenBy: CondStateDir, quiet: true,
			message: "Blocked connections are not recorded now; they are kept in memory meanwhile",
			remedy:  "Look at the disk of SIKKER_STATE_DIR: is it full, read-only, or does it hang? It is tried again by itself.",
		},
		{
			code: CondDatabaseHangs, severity: SeverityDegraded, quiet: true,
			message: "The database does not answer; blocked connections are kept in memory meanwhile",
			remedy:  "Look at the disk of SIKKER_STATE_DIR. When it answers, what waits is recorded.",
		},
		{
			code: CondHostWatch, severity: SeverityDegraded,
			message: "Changes of addresses and routes are not noticed",
			ended:   "Changes of addresses and routes are noticed",
			remedy:  "It is tried again by itself. Meanwhile they are looked at every three minutes.",
		},
		{
			code: CondRulesWatch, severity: SeverityDegraded,
			message: "Changes that other programs make to the rules are not noticed",
			ended:   "Changes that other programs make to the rules are noticed",
			remedy:  "It is tried again by itself. `/healthz` asks the kernel for the rules each time.",
		},
		{
			code: CondTask, severity: SeverityDegraded,
			message: "A task of the agent failed and is started again",
			ended:   "All tasks of the agent run",
			remedy:  "It is a fault of SikkerGuard: report it with the log line that says where. Restart the agent if it lasts.",
		},
		{
			code: CondSurvey, severity: SeverityWarning, quiet: true,
			message: "Not everything that this host depends on can be found; what was found before stays whitelisted",
			remedy:  "The detail says what to do. It is looked for again by itself, at least every three minutes.",
		},
		{
			code: CondExempt, severity: SeverityWarning, quiet: true,
			message: "This host depends on addresses that are on the list; those it needs are let through",
			remedy: "Name the addresses in SIKKER_WHITELIST, or have a resolver on this host ask others. An exemption ends by itself " +
				"when the address is on no list any more or not needed.",
		},
		{
			code: CondDryRun, severity: SeverityWarning, quiet: true,
			message: "This is a dry run: it blocks nothing",
			remedy:  "Take SIKKER_DRY_RUN out of the settings and restart the agent, when it has shown enough.",
		},
		{
			code: CondLeft, severity: SeverityWarning,
			message: "Rules of another run of SikkerGuard still block, as of an agent that was killed",
			ended:   "No rules of another run of SikkerGuard are in force",
			remedy: "They end when a list of this run comes in force. In a dry run none does: `sikkerguard cleanup` removes them, unless " +
				"another agent runs, whose rules go when it is stopped.",
		},
		{
			code: CondLeftUnseen, severity: SeverityWarning,
			message: "It cannot be seen whether rules of an agent that was killed still block",
			ended:   "It can be seen whether rules of an agent that was killed block",
			remedy:  "The detail says why. As root, `nft list table inet sikkerguard` and `iptables -t raw -S` show such rules, and `sikkerguard cleanup` removes them.",
		},
		{
			code: CondNamespace, severity: SeverityWarning,
			message: "Only this container (network namespace) is protected, not the whole machine",
			ended:   "The machine's own network is guarded",
			remedy:  "To guard the machine, run the agent in its network: `network_mode: host`, `hostNetwork: true`, `docker run --network host`.",
		},
		{
			code: CondBridged, severity: SeverityWarning,
			message: "Guests on a bridge of this host are not covered",
			ended:   "Guests on bridges of this host are covered",
			remedy:  "Run an agent in each guest, or have frames filtered (docs/nftables.md, Guests).",
		},
		{
			code: CondAge, severity: SeverityWarning, quiet: true,
			message: "The age of the list cannot be told, because this host's clock is wrong now or was when the list was kept",
			remedy:  "Set the clock (`timedatectl` shows it). The next list that the API gives has an age again.",
		},
		{
			code: CondReports, severity: SeverityWarning, quiet: true,
			message: "Reports do not get through to SikkerAPI, or it does not say how many it took; they are kept",
			remedy:  "The detail says why. They are sent again by themselves. If the answer is not the API's, look for a proxy in between.",
		},
	}
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

// reason returns the message with the detail, which need not name its subject.
func (c Condition) reason() string {
	if c.Detail != "" {
		return c.Message + ": " + c.Detail
	}
	return c.Message
}

// Message returns the sentence that the condition of a code shows, without its detail.
func Message(code Code) string { return rowOf(code).message }

// rowOf returns the row of a code. Each code has one.
func rowOf(code Code) row {
	table := rows()
	return table[slices.IndexFunc(table, func(c row) bool { return c.code == code })]
}

// withCondition returns a copy of held with the condition of row in it, or without it, in the order of the table. The time
// since when it holds stays.
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

// holds reports whether the condition of that code holds.
func (s *Status) Holds(code Code) bool {
	return slices.ContainsFunc(s.Conditions, func(c Condition) bool { return c.Code == code })
}

// settle derives the state and its reason from what is enforced and from the conditions that hold. If the reasons of
// several are longer than maxText, the details are left out, so that each condition is named.
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
