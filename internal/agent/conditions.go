package agent

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
	condRules      Code = "rules-changed"
	condMissing    Code = "rules-missing"
	condRefresh    Code = "refresh-failed"
	condRefused    Code = "list-refused"
	condRolledBack Code = "list-rolled-back"
	condKernel     Code = "kernel-refuses"
	condTrial      Code = "list-on-trial"
	condOpen       Code = "list-partly-open"
	condUnkept     Code = "list-not-kept"
	condOld        Code = "list-old"
	condWhitelist  Code = "whitelist-stale"
	condCovered    Code = "whitelist-covers-lists"
	condEmpty      Code = "nothing-blocked"
	condCustom     Code = "custom-list"
	condLog        Code = "log-stalled"
	condAge        Code = "list-age-unknown"
	condReports    Code = "reports-kept"
	condSurvey     Code = "whitelist-incomplete"
	condExempt     Code = "needed-is-listed"
	condDryRun     Code = "dry-run"
	condLeft       Code = "leftover-rules"
	condLeftUnseen Code = "leftover-unknown"
	condNamespace  Code = "namespace-alone"
	condBridged    Code = "guests-not-covered"

	condSilent        Code = "kernel-silent"
	condStuck         Code = "enforcer-stuck"
	condStateDir      Code = "state-dir"
	condHealth        Code = "health-port"
	condSensor        Code = "nflog"
	condControl       Code = "control-socket"
	condDatabase      Code = "database"
	condDatabaseHangs Code = "database-hangs"
	condHostWatch     Code = "host-watch"
	condRulesWatch    Code = "rules-watch"
	condTask          Code = "task-failed"
)

// condition is one row of the table: a state in which the agent is less than well. It holds until its own cause ends.
type condition struct {
	code     Code
	severity Severity
	hiddenBy Code   // while that one holds, this one does not show; empty for none
	message  string // what holds, a sentence without a full stop; begins its log line
	ended    string // the log line when it has ended; empty for none
	remedy   string // what the operator can do, a sentence
	quiet    bool   // its owner logs it, with more detail than the table has
}

// conditions is the table of all of them, the gravest first. It drives the status, the log, the metric and
// docs/conditions.md.
func conditions() []condition {
	return []condition{
		{
			code: condRules, severity: SeverityUnprotected, quiet: true,
			message: "The firewall rules are not the ones that were applied",
			remedy:  "They are restored by themselves. Find the program that changes them: `nft monitor` shows it.",
		},
		{
			code: condMissing, severity: SeverityUnprotected, hiddenBy: condRules, quiet: true,
			message: "The kernel does not have the firewall rules",
			remedy:  "They are restored by themselves within seconds. If they are not, restart the agent.",
		},
		{
			code: condSilent, severity: SeverityUnprotected, quiet: true,
			message: "The kernel does not answer whether it has the firewall rules",
			remedy:  "Look at the load of this host, and in `dmesg`. Another program may hold the firewall, as one that loads a large ruleset does.",
		},
		{
			code: condOpen, severity: SeverityUnprotected,
			message: "Addresses of the list are let through for moments, to find out whether this host needs them",
			remedy:  "Wait: it takes seconds. The log says what came of it.",
		},
		{
			code: condStuck, severity: SeverityDegraded,
			message: "The task that enforces the list does not go on; the rules stay in force as they are",
			ended:   "The task that enforces the list goes on",
			remedy:  "Restart the agent if it lasts. Its stacks (SIGQUIT ends it and prints them) say where it hangs.",
		},
		{
			code: condRefresh, severity: SeverityDegraded, quiet: true,
			message: "The last refresh of the list did not succeed",
			remedy:  "The detail says why. It is tried again by itself; `sikkerguard pull` tries at once.",
		},
		{
			code: condRefused, severity: SeverityDegraded, quiet: true,
			message: "A guard refused the list that the API gave",
			remedy: "The detail says why. If it names `sikkerguard pull --accept` and the list is right, run that. It ends with the next " +
				"list that passes.",
		},
		{
			code: condRolledBack, severity: SeverityDegraded, quiet: true,
			message: "The list was taken out of force again, because with it this host reached less",
			remedy: "Add the addresses that the detail names to `SIKKER_WHITELIST`, or take them out of your own list. The list is tried " +
				"again after an hour, if it differs, or by `sikkerguard pull --accept`.",
		},
		{
			code: condKernel, severity: SeverityDegraded, quiet: true,
			message: "The kernel does not take the rules that are wanted",
			remedy:  "The detail says what it answered. The list at hand is tried again by itself, without another pull.",
		},
		{
			code: condTrial, severity: SeverityDegraded,
			message: "This host reaches less than before, and rules are out of force for moments to find out whether the list is why",
			remedy:  "Wait: it takes seconds. The log says what came of it.",
		},
		{
			code: condOld, severity: SeverityDegraded, hiddenBy: condRefresh, quiet: true,
			message: "The list is older than three pull intervals",
			remedy:  "Look in the log for the reason that no newer one was taken.",
		},
		{
			code: condWhitelist, severity: SeverityDegraded, quiet: true,
			message: "The rules in force lack the newest whitelist or custom blacklist",
			remedy:  "It is tried again by itself. The detail says what the kernel answered.",
		},
		{
			code: condCovered, severity: SeverityDegraded,
			message: "The whitelist covers everything that the lists hold: nothing is blocked",
			ended:   "The whitelist no longer covers everything that the lists hold",
			remedy: "Look for entries of SIKKER_WHITELIST that are too wide. If it is unset, the lists name only addresses that this host " +
				"depends on; it ends with a list that names others.",
		},
		{
			code: condEmpty, severity: SeverityDegraded, hiddenBy: condCovered,
			message: "The list in force is empty: nothing is blocked",
			ended:   "The list in force is no longer empty",
			remedy: "Look whether an empty list was accepted, and at SIKKER_SCORE_MIN. `sikkerguard pull` pulls the list now; it ends " +
				"with a list that has entries.",
		},
		{
			code: condCustom, severity: SeverityDegraded, quiet: true,
			message: "The custom blacklist cannot be taken as its file is now; what it held before stays",
			remedy: "The detail says why. Correct the file; it is read at each pull, and at once with `kill -HUP`. " +
				"A file with nothing but a comment empties the list.",
		},
		{
			code: condLog, severity: SeverityDegraded, quiet: true, // a line about it would be dropped, too
			message: "The log does not reach its reader, and lines are dropped when its buffer is full",
			remedy: "Look at what reads the agent's output: a stopped terminal, a full disk, journald, Docker's log driver. " +
				"If it is gone for good, restart the agent when that suits you.",
		},
		{
			code: condStateDir, severity: SeverityDegraded,
			message: "The state directory is not used: no list, history or report is kept over a restart; blocking does not depend on it",
			ended:   "The state directory is used",
			remedy:  "The detail says what to change. It is tried again by itself.",
		},
		{
			code: condUnkept, severity: SeverityDegraded, hiddenBy: condStateDir, quiet: true,
			message: "The list in force is not on the disk; a start without the API would not protect",
			remedy:  "Make room on the disk of `SIKKER_STATE_DIR`, or let it be written. It is tried again every minute.",
		},
		{
			code: condHealth, severity: SeverityDegraded,
			message: "The health endpoint is not available; blocking does not depend on it",
			ended:   "The health endpoint is available",
			remedy: "If another program has the port, stop that program, or set SIKKER_HEALTH_PORT to a free one and restart the agent. " +
				"It is tried again by itself.",
		},
		{
			code: condSensor, severity: SeverityDegraded,
			message: "Blocked connections are not seen, and so neither logged nor reported; blocking does not depend on it",
			ended:   "Blocked connections are seen",
			remedy: "If another program listens to the NFLOG group, stop that program, or set SIKKER_NFLOG_GROUP to another and restart the " +
				"agent. It is tried again by itself.",
		},
		{
			code: condControl, severity: SeverityDegraded, hiddenBy: condStateDir,
			message: "`sikkerguard pull` does not reach this agent; blocking does not depend on it",
			ended:   "`sikkerguard pull` reaches this agent",
			remedy:  "The detail says why its socket in SIKKER_STATE_DIR cannot be made. It is tried again by itself; SIGHUP is a pull, too.",
		},
		{
			code: condDatabase, severity: SeverityDegraded, hiddenBy: condStateDir, quiet: true,
			message: "Blocked connections are not recorded now; they are kept in memory meanwhile",
			remedy:  "Look at the disk of SIKKER_STATE_DIR: is it full, read-only, or does it hang? It is tried again by itself.",
		},
		{
			code: condDatabaseHangs, severity: SeverityDegraded, quiet: true,
			message: "The database does not answer; blocked connections are kept in memory meanwhile",
			remedy:  "Look at the disk of SIKKER_STATE_DIR. When it answers, what waits is recorded.",
		},
		{
			code: condHostWatch, severity: SeverityDegraded,
			message: "Changes of addresses and routes are not noticed, the rules stay in force",
			ended:   "Changes of addresses and routes are noticed",
			remedy:  "It is tried again by itself. Meanwhile they are looked at every three minutes.",
		},
		{
			code: condRulesWatch, severity: SeverityDegraded,
			message: "Changes that other programs make to the rules are not noticed, the rules stay in force",
			ended:   "Changes that other programs make to the rules are noticed",
			remedy:  "It is tried again by itself. `/healthz` asks the kernel for the rules each time.",
		},
		{
			code: condTask, severity: SeverityDegraded,
			message: "A task of the agent failed and is begun again, the rules stay in force",
			ended:   "All tasks of the agent run",
			remedy:  "It is a fault of SikkerGuard: report it with the log line that says where. Restart the agent if it lasts.",
		},
		{
			code: condSurvey, severity: SeverityWarning, quiet: true,
			message: "Not everything that this host depends on can be found; what was found before stays whitelisted",
			remedy:  "The detail says what to do. It is looked for again by itself, at least every three minutes.",
		},
		{
			code: condExempt, severity: SeverityWarning, quiet: true,
			message: "This host depends on addresses that are on the list; those it needs are let through",
			remedy: "Name the addresses in SIKKER_WHITELIST, or have a resolver on this host ask others. An exemption ends by itself " +
				"when the address is on no list any more or not needed.",
		},
		{
			code: condDryRun, severity: SeverityWarning, quiet: true,
			message: "This is a dry run: it blocks nothing",
			remedy:  "Take SIKKER_DRY_RUN out of the settings and restart the agent, when it has shown enough.",
		},
		{
			code: condLeft, severity: SeverityWarning,
			message: "Rules of another run of SikkerGuard still block, as of an agent that was killed",
			ended:   "No rules of another run of SikkerGuard are in force",
			remedy: "They end when a list of this run comes in force. In a dry run none does: `sikkerguard cleanup` removes them, unless " +
				"another agent runs, whose rules go when it is stopped.",
		},
		{
			code: condLeftUnseen, severity: SeverityWarning,
			message: "It cannot be seen whether rules of an agent that was killed still block",
			ended:   "It can be seen whether rules of an agent that was killed block",
			remedy:  "The detail says why. As root, `nft list table inet sikkerguard` and `iptables -t raw -S` show such rules, and `sikkerguard cleanup` removes them.",
		},
		{
			code: condNamespace, severity: SeverityWarning,
			message: "Only this container (network namespace) is protected, not the whole machine",
			ended:   "The machine's own network is guarded",
			remedy:  "To guard the machine, run the agent in its network: `network_mode: host`, `hostNetwork: true`, `docker run --network host`.",
		},
		{
			code: condBridged, severity: SeverityWarning,
			message: "Guests on a bridge of this host are not covered",
			ended:   "Guests on bridges of this host are covered",
			remedy:  "Run an agent in each guest, or have frames filtered (docs/nftables.md, Guests).",
		},
		{
			code: condAge, severity: SeverityWarning, quiet: true,
			message: "The age of the list cannot be told, because this host's clock is wrong now or was when the list was kept",
			remedy:  "Set the clock (`timedatectl` shows it). The next list that the API gives has an age again.",
		},
		{
			code: condReports, severity: SeverityWarning, quiet: true,
			message: "Reports do not get through to SikkerAPI, or it does not say how many it took; they are kept",
			remedy:  "The detail says why. They are sent again by themselves. If the answer is not the API's, look for a proxy in between.",
		},
	}
}

// ConditionStatus is a condition that holds.
type ConditionStatus struct {
	Code     Code      `json:"code"`
	Severity Severity  `json:"severity"`
	Message  string    `json:"message"`
	Detail   string    `json:"detail"` // one line, without the key; may be empty
	Since    time.Time `json:"since"`
	Remedy   string    `json:"remedy"`
}

// reason returns the message with the detail, which need not name its subject.
func (c ConditionStatus) reason() string {
	if c.Detail != "" {
		return c.Message + ": " + c.Detail
	}
	return c.Message
}

// conditionRow returns the row of a code. Each code has one.
func conditionRow(code Code) condition {
	table := conditions()
	return table[slices.IndexFunc(table, func(c condition) bool { return c.code == code })]
}

// withCondition returns a copy of held with the condition of row in it, or without it, in the order of the table. The time
// since when it holds stays.
func withCondition(held []ConditionStatus, row condition, detail string, holds bool) []ConditionStatus {
	since := *thisSecond()
	var now []ConditionStatus
	for _, r := range conditions() {
		i := slices.IndexFunc(held, func(c ConditionStatus) bool { return c.Code == r.code })
		switch {
		case r.code == row.code && holds:
			if i >= 0 {
				since = held[i].Since
			}
			now = append(now, ConditionStatus{r.code, r.severity, r.message, detail, since, r.remedy})
		case r.code != row.code && i >= 0:
			now = append(now, held[i])
		}
	}
	return now
}

// holds reports whether the condition of that code holds.
func (s *Status) Holds(code Code) bool {
	return slices.ContainsFunc(s.Conditions, func(c ConditionStatus) bool { return c.Code == code })
}

// settle derives the state and its reason from what is enforced and from the conditions that hold. If the reasons of
// several are longer than maxText, the details are left out, so that each condition is named.
func (s *Status) settle() {
	s.State = s.Enforcing
	var reasons, messages []string
	for _, c := range s.Conditions {
		if hidden := conditionRow(c.Code).hiddenBy; hidden != "" && s.Holds(hidden) || c.Severity == SeverityWarning {
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
