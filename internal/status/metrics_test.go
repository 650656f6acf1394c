package status

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/sikkerapi/sikkerguard/internal/vet"
)

var update = flag.Bool("update", false, "write docs/metrics.md, docs/conditions.md and the golden files")

// golden compares the file at path with want, or writes it with -update.
func golden(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is stale: run go test ./internal/status -update (-want +got):\n%s", path, diff)
	}
}

// table is every metric that is read from the status.
func table() []metric {
	return slices.Concat(listMetrics(24*time.Hour), dropMetrics(), reportMetrics())
}

const metricsHead = `# Metrics

The agent serves these metrics at ''http://127.0.0.1:8080/metrics''. ''/status'' serves them too, if the client accepts
''text/plain'' or ''application/openmetrics-text'' rather than JSON, like Prometheus; ''/status?format=prometheus'' shows them in
a browser. ''SIKKER_HEALTH_PORT'' sets the port. The agent listens on loopback alone, so Prometheus runs on the same host or
reaches it through a proxy of yours. ''deploy/prometheus'' has a scrape configuration and alert rules, ''deploy/grafana'' a
dashboard.

All figures of a scrape are of one moment, except the figures of reports: they are those of the last reading of the database.
An unknown figure is absent, not 0. No label holds an address, and each label has few values: families, guards, states, and
the names of ''SIKKER_PORT_MAP'' with ''other''.

The kernel counts dropped packets exactly, and the count continues after a restart. An event is the NFLOG message about a
dropped packet. The packets seen, lost and unattributed since the agent started are together the packets dropped in that time.

This page is generated from the table that the agent uses (''make docs'').

| metric | type | labels | meaning | example |
|---|---|---|---|---|
`

const metricsTail = `
The metrics of the Go runtime (''go_…'') and of the process (''process_…'') have their usual names.
`

// reference returns the text of docs/metrics.md.
func reference() string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(metricsHead, "''", "`"))
	row := func(name, kind, labels, help, query string) {
		if labels != "" {
			labels = "`" + strings.ReplaceAll(labels, " ", "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | `%s` |\n", prefix+name, kind, labels, help, query)
	}
	for _, m := range table() {
		kind := map[prometheus.ValueType]string{gauge: "gauge", counter: "counter"}[m.kind]
		row(m.name, kind, m.labels, m.help, m.query)
	}
	row(appliedName, "histogram", "", appliedHelp, appliedQuery)
	b.WriteString(strings.ReplaceAll(metricsTail, "''", "`"))
	return b.String()
}

const appliedQuery = "histogram_quantile(0.95, sum by (le) (rate(sikkerguard_apply_duration_seconds_bucket[1d])))"

func TestMetricsReference(t *testing.T) {
	t.Parallel()
	golden(t, "../../docs/metrics.md", reference())
	names := map[string]bool{appliedName: true}
	for _, m := range table() {
		if names[m.name] {
			t.Errorf("%s has two rows", m.name)
		}
		names[m.name] = true
		if strings.Contains(m.help+m.query, "|") {
			t.Errorf("%s: a bar would end the cell of the page", m.name)
		}
		if !strings.Contains(m.query, prefix+m.name) {
			t.Errorf("%s: the example is of another metric: %s", m.name, m.query)
		}
	}
}

// sample returns a status in which every field is set.
func sample() Status {
	at := time.Date(2026, 2, 24, 10, 30, 0, 0, time.UTC)
	return Status{
		State: StateActive, Enforcing: StateActive, Conditions: []Condition{}, BlockedIPs: 8774,
		LastPull: &at, LastReport: &at, Uptime: "2h 15m", Version: "1.0.0",
		Healthy: true, Blocked4: 8700, Blocked6: 74, Source: SourceAPI,
		ListAge: "2h 15m", Age: 135 * time.Minute, AgeKnown: true, Custom: 3, NextPull: &at,
		Pulls:   Counts{PullAccepted: 4, PullUnavailable: 1},
		Refused: Counts{string(vet.GuardShrink): 2}, Rollbacks: 1, Repairs: 5,
		Whitelist: Whitelist{IPs: 8, Ranges: 8, Kinds: "gateways"}, Backend: "nftables",
		Features: []string{"table owner", "element counts"}, Gaps: []string{},
		Verified: &Verified{At: at, Elements: 9000, Counted: true, Sampled: 31, Seconds: .25},
		Drops: Drops{
			Dropped: &Dropped{Packets4: 1000, Bytes4: 60000, Packets6: 7, Bytes6: 700},
			Events:  Events{Dropped: 1007, Seen: 900, Lost: 50, Unattributed: 57, Unparsed: 2, Overflow: 3},
			Hits:    map[string]uint64{"ssh": 800, "other": 98}, Unattributed: 50,
		},
		Reports: &Reports{Enabled: true, Queued: 12, Sent: 300, Rejected: 4, Merged: 5, Dropped: 6},
		Quota: Quotas{
			Pulls:   &Quota{Limit: 24, Remaining: 20, Reset: at},
			Reports: &Quota{Limit: 1000, Reset: at},
		},
		Errors:     LastErrors{Pull: &LastError{Time: at, Text: "pull blacklist: 503"}},
		LogDropped: 9,
	}
}

// dryRun returns the status of a dry run.
func dryRun() Status { return Status{State: StateDryRun, DryRun: true, WouldBlock: 14217} }

// fixed collects the metrics of one status.
type fixed struct{ s Status }

func (fixed) Describe(descC chan<- *prometheus.Desc) {
	for _, m := range table() {
		descC <- m.desc()
	}
}

func (f fixed) Collect(metricC chan<- prometheus.Metric) {
	for _, m := range table() {
		m.read(&f.s, func(v float64, labels ...string) {
			metricC <- prometheus.MustNewConstMetric(m.desc(), m.kind, v, labels...)
		})
	}
}

// figures returns the samples of a gatherer by name and labels.
func figures(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = value(m)
		}
	}
	return all
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.GetGauge().GetValue()
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	default:
		return float64(m.GetHistogram().GetSampleCount())
	}
}

// TestMetrics checks that each figure of a status is in the metrics, and that they pass the linter
// of Prometheus.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(fixed{sample()})
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	all := figures(t, r)
	for name, want := range map[string]float64{
		"healthy{}": 1, "state{state=active}": 1, "state{state=unprotected}": 0, "backend_info{backend=nftables}": 1,
		"enforced_entries{family=4}": 8700, "enforced_entries{family=6}": 74,
		"whitelist_entries{kind=ip}": 8, "custom_entries{}": 3,
		"last_pull_timestamp_seconds{}": 1771929000, "pull_interval_seconds{}": 86400, "kernel_gaps{}": 0,
		"pulls_total{result=accepted}": 4, "pulls_total{result=unavailable}": 1, "pulls_total{result=quota}": 0,
		"refusals_total{guard=shrink}": 2, "refusals_total{guard=growth}": 0,
		"rollbacks_total{}": 1, "repairs_total{}": 5,
		"dropped_packets_total{family=4}": 1000, "dropped_bytes_total{family=6}": 700,
		"events_seen_total{}": 900, "events_lost_total{}": 50, "events_unattributed_total{}": 50,
		"events_unparsed_total{}": 2,
		"events_overflow_total{}": 3, "hits_total{protocol=ssh}": 800, "hits_total{protocol=other}": 98,
		"reports_queued{}": 12, "reports_sent_total{}": 300, "reports_rejected_total{}": 4, "reports_merged_total{}": 5,
		"reports_dropped_total{}": 6, "quota_limit{use=pulls}": 24,
		"quota_remaining{use=pulls}": 20, "quota_remaining{use=reports}": 0,
		"last_error_timestamp_seconds{stage=pull}": 1771929000, "list_kept{}": 0,
		"log_lines_dropped_total{}": 9,
	} {
		if got, ok := all[prefix+name]; !ok || got != want {
			t.Errorf("%s: got %v (present: %v), want %v", name, got, ok, want)
		}
	}
	for name := range all {
		if regexp.MustCompile(`\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f]*:`).MatchString(name) {
			t.Errorf("%s looks like an address", name)
		}
	}
	dry := prometheus.NewPedanticRegistry()
	dry.MustRegister(fixed{dryRun()})
	dryFigures := figures(t, dry)
	for name, want := range map[string]float64{
		"healthy{}": 0, "state{state=dry-run}": 1, "would_block_entries{}": 14217,
		"enforced_entries{family=4}": 0, "enforced_entries{family=6}": 0,
	} {
		if got, ok := dryFigures[prefix+name]; !ok || got != want {
			t.Errorf("in a dry run %s: got %v (present: %v), want %v", name, got, ok, want)
		}
	}
	maps.Copy(all, dryFigures)
	for _, m := range table() { // each row has a figure if every field is set
		isOf := func(n string) bool { return strings.HasPrefix(n, prefix+m.name+"{") }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), isOf) {
			t.Errorf("%s has no figure", m.name)
		}
	}
}

// TestMetricsUnknown checks that unknown figures are absent, and that no entries count as enforced
// while the agent is not healthy.
func TestMetricsUnknown(t *testing.T) {
	t.Parallel()
	s := Status{State: StateUnprotected, Blocked4: 5}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(fixed{s})
	all := figures(t, r)
	if all[prefix+"healthy{}"] != 0 || all[prefix+"enforced_entries{family=4}"] != 0 {
		t.Errorf("while the agent is not healthy: %v", all)
	}
	for name := range all {
		if regexp.MustCompile("guard_dropped_|reports_|quota_|last_|list_age|next_pull").MatchString(name) {
			t.Errorf("%s is present", name)
		}
	}
}

// TestDeployedNames checks that the alert rules and dashboards use only existing metrics.
func TestDeployedNames(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, m := range table() {
		known[prefix+m.name] = true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		known[prefix+appliedName+suffix] = true
	}
	files := 0
	err := filepath.WalkDir("../../deploy", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "prometheus") && !strings.Contains(path, "grafana") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, name := range regexp.MustCompile(`\b`+prefix+`[a-z0-9_]+`).FindAllString(string(raw), -1) {
			if !known[name] {
				t.Errorf("%s uses %s, which is no metric", path, name)
			}
		}
		return nil
	})
	if err != nil || files < 6 {
		t.Errorf("%d files of Prometheus and Grafana, %v", files, err)
	}
}
