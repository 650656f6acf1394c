package status

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// listMetrics returns the metrics of the list and of its enforcement.
func listMetrics(pullInterval time.Duration) []metric {
	return []metric{
		{
			"build_info", gauge, "version goversion", "1, labelled with the version of the agent and of Go.",
			`count by (version) (sikkerguard_build_info)`,
			func(s *Status, out put) { out(1, s.Version, runtime.Version()) },
		},
		{
			"healthy", gauge, "",
			"1 while the list is active and the kernel confirms it; 0 otherwise. A dry run protects nothing, so" +
				" it has 0.",
			`sikkerguard_healthy == 0`,
			func(s *Status, out put) { out(truth(s.Healthy)) },
		},
		{
			"state", gauge, "state",
			"1 for the state of the agent: starting, active, degraded, unprotected or dry-run; 0 for the " +
				"others.",
			`sikkerguard_state{state="degraded"} == 1`,
			func(s *Status, out put) {
				for _, state := range states() {
					out(truth(s.State == state), string(state))
				}
			},
		},
		{
			"condition", gauge, "code severity",
			"1 for each condition that holds, 0 for the others. docs/conditions.md lists them.",
			`sikkerguard_condition{severity!="warning"} == 1`,
			func(s *Status, out put) {
				for _, row := range rows() {
					out(truth(s.Holds(row.code)), string(row.code), string(row.severity))
				}
			},
		},
		{
			"backend_info", gauge, "backend",
			"1, labelled with the backend: nftables or iptables. Absent in a dry run.",
			`count by (backend) (sikkerguard_backend_info)`,
			func(s *Status, out put) {
				if s.Backend != "" {
					out(1, s.Backend)
				}
			},
		},
		{
			"kernel_gaps", gauge, "", "Number of limitations of this host. /status names each and its effect.",
			`sikkerguard_kernel_gaps > 0`,
			func(s *Status, out put) { out(float64(len(s.Gaps))) },
		},
		{
			"enforced_entries", gauge, "family",
			"Addresses and networks that are dropped, by family, 4 or 6. 0 while no list is active, and in a " +
				"dry run.",
			`sum by (instance) (sikkerguard_enforced_entries)`,
			func(s *Status, out put) {
				enforcing := truth(s.Healthy)
				out(enforcing*float64(s.Blocked4), "4")
				out(enforcing*float64(s.Blocked6), "6")
			},
		},
		{
			"would_block_entries", gauge, "",
			"Addresses and networks that a dry run would drop. Absent unless it is one.",
			`sikkerguard_would_block_entries`,
			func(s *Status, out put) {
				if s.State == StateDryRun {
					out(float64(s.WouldBlock))
				}
			},
		},
		{
			"whitelist_entries", gauge, "kind",
			"Addresses and networks that are never blocked, by kind, ip or range.",
			`sum(sikkerguard_whitelist_entries)`,
			func(s *Status, out put) {
				out(float64(s.Whitelist.IPs), "ip")
				out(float64(s.Whitelist.Ranges), "range")
			},
		},
		{
			"custom_entries", gauge, "", "Entries of the custom blacklist, SIKKER_CUSTOM_BLACKLIST.",
			`sikkerguard_custom_entries`,
			func(s *Status, out put) { out(float64(s.Custom)) },
		},
		{
			"last_pull_timestamp_seconds", gauge, "", "When the active list was pulled. Absent before the first.",
			`time() - sikkerguard_last_pull_timestamp_seconds`,
			func(s *Status, out put) { seconds(out, s.LastPull) },
		},
		{
			"list_age_seconds", gauge, "",
			"Age of the last list that was accepted. Absent before the first, and while a wrong clock makes it " +
				"unknown.",
			`sikkerguard_list_age_seconds > 3 * sikkerguard_pull_interval_seconds`,
			func(s *Status, out put) {
				if s.AgeKnown {
					out(s.Age.Seconds())
				}
			},
		},
		{
			"list_kept", gauge, "", "1 while the active list is the saved one of an earlier run.",
			`sikkerguard_list_kept == 1`,
			func(s *Status, out put) { out(truth(s.Kept)) },
		},
		{
			"pull_interval_seconds", gauge, "", "Time between pulls, SIKKER_PULL_INTERVAL.",
			`sikkerguard_pull_interval_seconds / 3600`,
			func(_ *Status, out put) { out(pullInterval.Seconds()) },
		},
		{
			"next_pull_timestamp_seconds", gauge, "", "When the next pull is due. Absent until the first has ended.",
			`sikkerguard_next_pull_timestamp_seconds - time()`,
			func(s *Status, out put) { seconds(out, s.NextPull) },
		},
		{
			"pulls_total", counter, "result",
			"Pulls, by result: accepted, refused (by a guard), quota (spent), unauthorized (the key), " +
				"unavailable (no answer, or none that can be used), error (any other).",
			`increase(sikkerguard_pulls_total{result!="accepted"}[1d])`,
			func(s *Status, out put) {
				for _, result := range pullResults() {
					out(float64(s.Pulls[result]), result)
				}
			},
		},
		{
			"refusals_total", counter, "guard",
			"Lists refused, by the guard that refused: entries, malformed, empty, width, coverage, growth, " +
				"shrink.",
			`increase(sikkerguard_refusals_total[1d]) > 0`,
			func(s *Status, out put) {
				for _, g := range guards() {
					out(float64(s.Refused[string(g)]), string(g))
				}
			},
		},
		{
			"rollbacks_total", counter, "",
			"Lists that were rolled back, because with them the host did not reach something that it needs or " +
				"the kernel did not enforce them.",
			`increase(sikkerguard_rollbacks_total[1d]) > 0`,
			func(s *Status, out put) { out(float64(s.Rollbacks)) },
		},
		{
			"repairs_total", counter, "", "Repairs: restorations of rules that another program had changed.",
			`increase(sikkerguard_repairs_total[1h]) > 0`,
			func(s *Status, out put) { out(float64(s.Repairs)) },
		},
		{
			"log_lines_dropped_total", counter, "",
			"Log lines that were dropped, because their reader did not read.",
			`increase(sikkerguard_log_lines_dropped_total[1h]) > 0`,
			func(s *Status, out put) { out(float64(s.LogDropped)) },
		},
		{
			"last_error_timestamp_seconds", gauge, "stage",
			"When a stage last failed: pull, apply or report. Absent for a stage that never failed. /status has" +
				" the text.",
			`time() - sikkerguard_last_error_timestamp_seconds < 3600`,
			func(s *Status, out put) {
				for stage, e := range map[string]*LastError{
					"pull": s.Errors.Pull, "apply": s.Errors.Apply, "report": s.Errors.Report,
				} {
					if e != nil {
						seconds(out, &e.Time, stage)
					}
				}
			},
		},
	}
}

// reportMetrics returns the metrics of reports and of quotas.
func reportMetrics() []metric {
	reports := func(read func(r *Reports) float64) func(*Status, put) {
		return func(s *Status, out put) {
			if s.Reports != nil {
				out(read(s.Reports))
			}
		}
	}
	quota := func(read func(q *Quota) float64) func(*Status, put) {
		return func(s *Status, out put) {
			if s.Quota.Pulls != nil {
				out(read(s.Quota.Pulls), "pulls")
			}
			if s.Quota.Reports != nil {
				out(read(s.Quota.Reports), "reports")
			}
		}
	}
	return []metric{
		{
			"reports_queued", gauge, "",
			"Report rows in the queue, one a source and service. Absent while nothing is recorded.",
			`sikkerguard_reports_queued`,
			reports(func(r *Reports) float64 { return float64(r.Queued) }),
		},
		{
			"reports_sent_total", counter, "", "Report rows that SikkerAPI accepted. It continues after a restart.",
			`increase(sikkerguard_reports_sent_total[1d])`,
			reports(func(r *Reports) float64 { return float64(r.Sent) }),
		},
		{
			"reports_rejected_total", counter, "",
			"Report rows that SikkerAPI rejected. It continues after a restart.",
			`increase(sikkerguard_reports_rejected_total[1d])`,
			reports(func(r *Reports) float64 { return float64(r.Rejected) }),
		},
		{
			"reports_merged_total", counter, "",
			"Report rows merged with others of their source, because the queue was full. It continues after a " +
				"restart.",
			`increase(sikkerguard_reports_merged_total[1d]) > 0`,
			reports(func(r *Reports) float64 { return float64(r.Merged) }),
		},
		{
			"reports_dropped_total", counter, "",
			"Report rows dropped, because the queue was full even after merging. It continues after a restart.",
			`increase(sikkerguard_reports_dropped_total[1d]) > 0`,
			reports(func(r *Reports) float64 { return float64(r.Dropped) }),
		},
		{
			"last_report_timestamp_seconds", gauge, "",
			"When SikkerAPI last accepted a batch of reports. Absent before the first.",
			`time() - sikkerguard_last_report_timestamp_seconds`,
			func(s *Status, out put) { seconds(out, s.LastReport) },
		},
		{
			"quota_limit", gauge, "use",
			"Daily quota of the key, in pulls or in report rows, by use: pulls or reports. Absent until the API" +
				" reports it.",
			`sikkerguard_quota_limit{use="reports"}`,
			quota(func(q *Quota) float64 { return float64(q.Limit) }),
		},
		{
			"quota_remaining", gauge, "use",
			"Rest of the daily quota in the last answer of the API, or all of it if a new day has begun since; " +
				"by use: pulls or reports.",
			`sikkerguard_quota_remaining / sikkerguard_quota_limit < 0.1`,
			quota(func(q *Quota) float64 { return float64(q.Remaining) }),
		},
	}
}
