package status

// rows returns the table of conditions, the gravest first. The status, the log, the metric and
// docs/conditions.md are made from it.
func rows() []row {
	return []row{
		{
			code: CondRules, severity: SeverityUnprotected, quiet: true,
			message: "The firewall rules differ from those that were applied",
			remedy:  "The agent restores them. Find the program that changes them: `nft monitor` shows it.",
		},
		{
			code: CondMissing, severity: SeverityUnprotected, hiddenBy: CondRules, quiet: true,
			message: "The kernel does not have the firewall rules",
			remedy:  "The agent restores them within seconds. If it does not, restart it.",
		},
		{
			code: CondSilent, severity: SeverityUnprotected, quiet: true,
			message: "The kernel does not answer whether it has the firewall rules",
			remedy: "Check the load of this host, and `dmesg`. Another program may hold the firewall, for example " +
				"while it loads a large ruleset.",
		},
		{
			code: CondOpen, severity: SeverityUnprotected,
			message: "Listed addresses are let through for moments, to find out whether this host needs them",
			remedy:  "Wait a few seconds. The log then shows the result.",
		},
		{
			code: CondStuck, severity: SeverityDegraded,
			message: "The enforcement loop is stuck; it takes no new list and repairs no rules",
			ended:   "The enforcement loop continues",
			remedy: "If it lasts, restart the agent. SIGQUIT ends it and prints its stacks, which show where it " +
				"hangs.",
		},
		{
			code: CondRefresh, severity: SeverityDegraded, quiet: true,
			message: "The last refresh of the list failed",
			remedy:  "The detail has the reason. The agent retries by itself; `sikkerguard pull` retries at once.",
		},
		{
			code: CondNoList, severity: SeverityDegraded, hiddenBy: CondRefresh, quiet: true,
			message: "No list was pulled yet, and there is no saved list to use",
			remedy:  "Wait for the first pull. If it fails, the condition `refresh-failed` follows, with the reason.",
		},
		{
			code: CondRefused, severity: SeverityDegraded, quiet: true,
			message: "A guard refused the list of the API",
			remedy: "The detail has the reason. If it names `sikkerguard pull --accept` and the list is right, run " +
				"that. The condition ends with the next list that passes.",
		},
		{
			code: CondRolledBack, severity: SeverityDegraded, quiet: true,
			message: "The list was rolled back, because with it this host reached less",
			remedy: "Add the addresses that the detail names to `SIKKER_WHITELIST`, or remove them from the custom " +
				"blacklist. The agent tries a list that differs as soon as it has one, and the same list after an " +
				"hour; `sikkerguard pull --accept` tries it now.",
		},
		{
			code: CondKernel, severity: SeverityDegraded, quiet: true,
			message: "The kernel refuses the wanted rules",
			remedy: "The detail has its answer. The agent retries by itself with the list that it has, without " +
				"another pull.",
		},
		{
			code: CondTrial, severity: SeverityDegraded,
			message: "This host reaches less than before; rules are suspended for moments to find out whether the " +
				"list is the cause",
			remedy: "Wait a few seconds. The log then shows the result.",
		},
		{
			code: CondOld, severity: SeverityDegraded, hiddenBy: CondRefresh, quiet: true,
			message: "The list is older than three pull intervals",
			remedy:  "The log has the reason why no newer list was accepted.",
		},
		{
			code: CondWhitelist, severity: SeverityDegraded, quiet: true,
			message: "The active rules lack the newest allowlist or custom blacklist",
			remedy: "The agent retries by itself. The detail has the reason: the answer of the kernel, or a rollback " +
				"with its remedy.",
		},
		{
			code: CondCovered, severity: SeverityDegraded,
			message: "The allowlist covers every entry of the lists: nothing is blocked",
			ended:   "The allowlist no longer covers every entry of the lists",
			remedy: "Look for entries of SIKKER_WHITELIST that are too wide. If it is unset, the lists name only " +
				"addresses that this host depends on; the condition ends with a list that names others.",
		},
		{
			code: CondEmpty, severity: SeverityDegraded, hiddenBy: CondCovered,
			message: "The active list is empty: nothing is blocked",
			ended:   "The active list is no longer empty",
			remedy: "Check whether an empty list was accepted, and SIKKER_SCORE_MIN. `sikkerguard pull` pulls the " +
				"list now. The condition ends with a list that has entries.",
		},
		{
			code: CondCustom, severity: SeverityDegraded, quiet: true,
			message: "The custom blacklist cannot be used as its file is now; its last good entries stay",
			remedy: "The detail has the reason. Correct the file. The agent reads it at each pull, and at once after " +
				"`kill -HUP`. A file with nothing but a comment empties the list.",
		},
		{
			code: CondLog, severity: SeverityDegraded, quiet: true, // a line about it would also be dropped
			message: "The log does not reach its reader; lines are dropped when its buffer is full",
			remedy: "Check the reader of the agent's output: a stopped terminal, a full disk, journald, Docker's log " +
				"driver. If it is gone for good, restart the agent when convenient.",
		},
		{
			code: CondStateDir, severity: SeverityDegraded,
			message: "The state directory is not used: no list, history or report survives a restart; blocking does " +
				"not depend on it",
			ended: "The state directory is used",
			remedy: "The detail has the reason. Correct that, or set SIKKER_STATE_DIR to another directory and " +
				"restart the agent. The agent retries by itself.",
		},
		{
			code: CondUnkept, severity: SeverityDegraded, hiddenBy: CondStateDir, quiet: true,
			message: "The active list is not saved on disk; a start without the API would use an older list, or none",
			remedy: "Make room on the disk of `SIKKER_STATE_DIR`, or make it writable. The agent retries every " +
				"minute.",
		},
		{
			code: CondHealth, severity: SeverityDegraded,
			message: "The health endpoint is not available; blocking does not depend on it",
			ended:   "The health endpoint is available",
			remedy: "If another program uses the port, stop that program, or set SIKKER_HEALTH_PORT to a free one and" +
				" restart the agent. The agent retries by itself.",
		},
		{
			code: CondSensor, severity: SeverityDegraded,
			message: "Blocked connections are not seen as they come: only those that the kernel counts by source are " +
				"logged, and no datagrams are reported; blocking does not depend on it",
			ended: "Blocked connections are seen",
			remedy: "If another program listens on the NFLOG group, stop that program, or set SIKKER_NFLOG_GROUP to " +
				"another and restart the agent. The agent retries by itself.",
		},
		{
			code: CondCounts, severity: SeverityDegraded,
			message: "The kernel's counts of dropped packets by source cannot be read; they are logged and reported " +
				"when they can be",
			ended: "The kernel's counts of dropped packets by source are read again",
			remedy: "The detail has the kernel's answer. If other programs change the firewall all the time, stop " +
				"them. The agent retries by itself.",
		},
		{
			code: CondControl, severity: SeverityDegraded, hiddenBy: CondStateDir,
			message: "`sikkerguard pull` does not reach this agent; blocking does not depend on it",
			ended:   "`sikkerguard pull` reaches this agent",
			remedy: "The detail has the reason why its socket in SIKKER_STATE_DIR cannot be created. The agent " +
				"retries by itself. SIGHUP also pulls.",
		},
		{
			code: CondDatabase, severity: SeverityDegraded, hiddenBy: CondStateDir, quiet: true,
			message: "Blocked connections are not recorded now; they wait in memory",
			remedy: "Check the disk of SIKKER_STATE_DIR: is it full or read-only, or does it hang? The agent retries " +
				"by itself.",
		},
		{
			code: CondDatabaseHangs, severity: SeverityDegraded, quiet: true,
			message: "The database does not answer; blocked connections wait in memory",
			remedy: "Check the disk of SIKKER_STATE_DIR. When it answers, the agent records the connections that " +
				"wait.",
		},
		{
			code: CondHostWatch, severity: SeverityDegraded,
			message: "Changes of addresses and routes are not noticed",
			ended:   "Changes of addresses and routes are noticed",
			remedy:  "The agent retries by itself. Meanwhile it checks them every three minutes.",
		},
		{
			code: CondRulesWatch, severity: SeverityDegraded,
			message: "Changes that other programs make to the rules are not noticed",
			ended:   "Changes that other programs make to the rules are noticed",
			remedy:  "The agent retries by itself. `/healthz` asks the kernel for the rules each time.",
		},
		{
			code: CondTask, severity: SeverityDegraded,
			message: "A part of the agent failed and is restarted",
			ended:   "All parts of the agent run",
			remedy: "This is a fault of SikkerGuard: report it with the log line that names the place. If it lasts, " +
				"restart the agent.",
		},
		{
			code: CondSurvey, severity: SeverityWarning, quiet: true,
			message: "Some addresses that this host depends on cannot be found; those found before stay on the " +
				"allowlist",
			remedy: "The detail has the remedy. The agent looks again by itself, at least every three minutes.",
		},
		{
			code: CondExempt, severity: SeverityWarning, quiet: true,
			message: "This host depends on listed addresses; those it needs are let through",
			remedy: "Add the addresses to SIKKER_WHITELIST, or have a resolver on this host ask others. An exemption " +
				"ends by itself when no list has the address or this host no longer needs it.",
		},
		{
			code: CondDryRun, severity: SeverityWarning, quiet: true,
			message: "This is a dry run: it blocks nothing",
			remedy:  "To block, remove SIKKER_DRY_RUN from the settings and restart the agent.",
		},
		{
			code: CondLeft, severity: SeverityWarning,
			message: "Rules of another run of SikkerGuard still block, such as those of a killed agent",
			ended:   "No rules of another run of SikkerGuard are active",
			remedy: "They end when a list of this run becomes active. In a dry run none does: remove them with " +
				"`sikkerguard cleanup`. If another agent runs, its rules go when it is stopped.",
		},
		{
			code: CondLeftUnseen, severity: SeverityWarning,
			message: "The agent cannot see whether rules of a killed agent still block",
			ended:   "The agent can see whether rules of a killed agent block",
			remedy: "The detail has the reason. As root, `nft list table inet sikkerguard` and `iptables -t raw -S` " +
				"show such rules, and `sikkerguard cleanup` removes them.",
		},
		{
			code: CondNamespace, severity: SeverityWarning,
			message: "Only this container (network namespace) is protected, not the whole machine",
			ended:   "The network of the machine is protected",
			remedy: "To protect the machine, run the agent in its network: `network_mode: host`, `hostNetwork: true`," +
				" `docker run --network host`.",
		},
		{
			code: CondBridged, severity: SeverityWarning,
			message: "Guests on a bridge of this host are not covered",
			ended:   "Guests on bridges of this host are covered",
			remedy:  "Run an agent in each guest, or have bridged frames filtered (docs/nftables.md, Guests).",
		},
		{
			code: CondAge, severity: SeverityWarning, quiet: true,
			message: "The age of the list is unknown, because this host's clock is wrong now or was wrong when the " +
				"list was saved",
			remedy: "Set the clock (`timedatectl` shows it). The next list of the API has an age.",
		},
		{
			code: CondReports, severity: SeverityWarning, quiet: true,
			message: "Reports do not get through to SikkerAPI, or its answer does not confirm them; they are kept",
			remedy: "The detail has the reason. The agent sends them again by itself. If the answer is not from the " +
				"API, look for a proxy in between.",
		},
	}
}
