package status

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/sikkerapi/sikkerguard/internal/coalesce"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// prefix begins the name of each metric.
const prefix = "sikkerguard_"

// put adds one figure, with the values of the labels of its metric.
type put func(value float64, labels ...string)

// metric is one row of the table that the collector and docs/metrics.md are made from. All figures
// of a scrape are read from one Status, so that they agree. An unknown figure is left out, because
// 0 would be wrong.
type metric struct {
	name   string // without the prefix
	kind   prometheus.ValueType
	labels string // names of labels, separated by spaces
	help   string
	query  string // an example in PromQL
	read   func(s *Status, out put)
}

func (m metric) desc() *prometheus.Desc {
	return prometheus.NewDesc(prefix+m.name, m.help, strings.Fields(m.labels), nil)
}

// collector reads the status once for each scrape.
type collector struct {
	read     func() Status
	panicked func(part string, err error)
	metrics  []metric
	descs    []*prometheus.Desc
}

func newCollector(b *Board) *collector {
	c := &collector{
		read: b.Status, panicked: b.panicked,
		metrics: slices.Concat(listMetrics(b.o.PullInterval), dropMetrics(), reportMetrics()),
	}
	for _, m := range c.metrics {
		c.descs = append(c.descs, m.desc())
	}
	return c
}

// Describe sends the description of every metric.
func (c *collector) Describe(descC chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		descC <- d
	}
}

// Collect reads the status and sends its figures. The registry calls it in a goroutine of its own,
// where a panic would end the process. Collect contains it, and the scrape fails.
func (c *collector) Collect(metricC chan<- prometheus.Metric) {
	err := panics.Contain(func() error {
		c.collect(metricC)
		return nil
	})
	if err != nil {
		c.panicked("metrics", err)
		metricC <- prometheus.NewInvalidMetric(c.descs[0], err)
	}
}

func (c *collector) collect(metricC chan<- prometheus.Metric) {
	s := c.read()
	for i, m := range c.metrics {
		m.read(&s, func(value float64, labels ...string) {
			metric, err := prometheus.NewConstMetric(c.descs[i], m.kind, value, labels...)
			if err != nil {
				metric = prometheus.NewInvalidMetric(c.descs[i], err)
			}
			metricC <- metric
		})
	}
}

const (
	appliedName = "apply_duration_seconds"
	appliedHelp = "Time from the first request to the kernel until its last answer, each time that rules were " +
		"applied: the list changed, the allowlist changed, or rules were restored."
)

// newApplyDuration returns the histogram of the time to apply a list: milliseconds for a small one,
// seconds for hundreds of thousands of entries.
func newApplyDuration() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: prefix + appliedName, Help: appliedHelp,
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})
}

// registry returns the metrics of b and of the process.
func (b *Board) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(b), b.applies, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// gathered is the result of one scrape.
type gathered struct {
	families []*dto.MetricFamily
	err      error
}

// Gatherer returns the metrics of b and of the process. Concurrent callers share one reading.
func (b *Board) Gatherer() prometheus.Gatherer {
	registry := b.registry()
	all := coalesce.New(readEvery, func() (g gathered) {
		g.families, g.err = registry.Gather()
		return g
	})
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		g := all.Get()
		return slices.Clone(g.families), g.err // a caller may remove elements
	})
}

// The results of pulls.
const (
	PullAccepted     = "accepted"
	PullRefused      = "refused"
	PullQuota        = "quota"
	PullUnauthorized = "unauthorized"
	PullUnavailable  = "unavailable"
	PullFailed       = "error"
)

// pullResults returns all of them. Each has a figure from the start, so that its first pull is an
// increase.
func pullResults() []string {
	return []string{PullAccepted, PullRefused, PullQuota, PullUnauthorized, PullUnavailable, PullFailed}
}

// guards returns the guards that refuse lists.
func guards() []vet.Guard {
	return []vet.Guard{
		vet.GuardEntries, vet.GuardMalformed, vet.GuardEmpty, vet.GuardWidth, vet.GuardCoverage, vet.GuardGrowth,
		vet.GuardShrink,
	}
}

// states returns every State.
func states() []State {
	return []State{StateStarting, StateActive, StateDegraded, StateUnprotected, StateDryRun}
}

// truth returns 1 if is, else 0.
func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// seconds puts t as a Unix time, unless t is nil.
func seconds(out put, t *time.Time, labels ...string) {
	if t != nil {
		out(float64(t.Unix()), labels...)
	}
}
