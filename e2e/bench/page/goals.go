package page

import (
	"fmt"
	"math"

	"github.com/sikkerapi/sikkerguard/e2e/bench/measure"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// figure is a measured figure and the most (or, if atLeast, the least) that it should be.
type figure struct {
	value, goal float64
	atLeast     bool
}

func (f figure) met() bool {
	if f.atLeast {
		return f.value >= f.goal
	}
	return f.value <= f.goal
}

// goal is a row of the summary.
type goal struct {
	work, before, goal, unit string
	figures                  func(*result.Result) []figure
	format                   func(float64) string
}

const large, small = 500_000, 5_000

// goals returns the rows. The figures in before were measured in the same way, on a machine with two
// cores, when the goals were set.
func goals() []goal {
	two := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	return []goal{
		{
			"blocked packet, agent listening, ratio to iptables + ipset in INPUT", "0.78–0.90", "≤ 0.6", "",
			worst(result.Blocked, 0.6, func(result.Case) bool { return true }), two,
		},
		{
			"passing packet, likewise", "0.66–1.05", "≤ 0.9", "",
			worst(result.Passing, 0.9, func(result.Case) bool { return true }), two,
		},
		{
			"passing packet, odd widths at 500,000", "0.70", "≤ 0.6", "",
			worst(result.Passing, 0.6, func(c result.Case) bool { return c.Shape == "odd" && c.Entries == large }), two,
		},
		{
			"refresh of 500,000, 1% changed, in the kernel", "1,080–1,300 ms", "≤ 20 ms", " ms",
			medians(20, result.Case{Measure: result.ChangedApply, Family: 4, Shape: "mixed", Entries: large}), number,
		},
		{
			"refresh of 500,000 whole, order to \"Blocking\", ratio to `ipset restore` + swap",
			"1.2–1.45", "≤ 0.8", "", refreshRatio(large, 0.8), two,
		},
		{"the same, 5,000", "1.6", "≤ 0.8", "", refreshRatio(small, 0.8), two},
		{
			"peak memory of that, 500,000", "141–155 MiB", "≤ 100 MiB", " MiB",
			medians(100, result.Case{Measure: result.Peak, Family: 4, Shape: "mixed", Entries: large}), number,
		},
		{
			"resident at rest, 500,000 entries", "136 MiB", "≤ 40 MiB", " MiB",
			medians(40, result.Case{Measure: result.Resident, Family: 4, Shape: "mixed", Entries: large}), number,
		},
		{
			"resident at rest, 5,000 entries", "24 MiB", "≤ 20 MiB", " MiB",
			medians(20, result.Case{Measure: result.Resident, Family: 4, Shape: "mixed", Entries: small}), number,
		},
		{
			"wake-ups a second at rest", "42–55", "≤ 5", "",
			worstMedian(result.WakeUps, 5), number,
		},
		{
			"start with the saved list of 500,000: to \"Blocking\"", "1.1–1.4 s", "≤ 0.7 s", " ms",
			starts(result.ToBlocking, 700), number,
		},
		{
			"the same: to \"running\"", "3.8–4.5 s", "≤ 1.5 s", " ms", starts(result.ToRunning, 1500), number,
		},
		{
			"flood of 200,000/s beside 100 quiet sources: quiet sources in the history", "76%", "100%", "%",
			flood(result.Sources, measure.Quiet), percent,
		},
		{"the same: of their packets", "4.6%", "100%", "%", flood(result.Counted, measure.Quiet), percent},
		{
			"200,000/s from 50,000 sources: sources in the history", "62%", "100%", "%",
			flood(result.Sources, measure.ManyFrom), percent,
		},
		{"the same: of their packets", "6%", "100%", "%", flood(result.Counted, measure.ManyFrom), percent},
		{
			"recording a hit in SQLite", "27 µs", "≤ 5 µs", " µs",
			medians(5, result.Case{Measure: result.Record}), number,
		},
	}
}

// summary has a row for each goal.
func summary(r *result.Result) string {
	var rows [][]string
	measured := false
	for _, g := range goals() {
		value, met := none, none
		if figures := g.figures(r); len(figures) > 0 {
			measured = true
			low, high := math.Inf(1), math.Inf(-1)
			met = "yes"
			for _, f := range figures {
				low, high = min(low, f.value), max(high, f.value)
				if !f.met() {
					met = "no"
				}
			}
			if value = g.format(low) + g.unit; g.format(high) != g.format(low) {
				value = g.format(low) + "–" + g.format(high) + g.unit
			}
		}
		rows = append(rows, []string{g.work, g.before, g.goal, "**" + value + "**", met})
	}
	if !measured {
		return ""
	}
	return table([]string{"work", "before", "goal", "measured", "met"}, rows)
}

// worst returns the ratios to iptables and ipset of the kept cases.
func worst(m result.Measure, most float64, keep func(result.Case) bool) func(*result.Result) []figure {
	return func(r *result.Result) (all []figure) {
		for _, c := range only(r.Cases(m), keep) {
			if c.Variant != "" {
				continue
			}
			if v, ok := r.Ratio(c, result.Agent, result.IPSet); ok {
				all = append(all, figure{value: v, goal: most})
			}
		}
		return all
	}
}

func refreshRatio(entries int, most float64) func(*result.Result) []figure {
	return worst(result.Whole, most, func(c result.Case) bool { return c.Entries == entries })
}

// medians returns the medians of the agent in cases.
func medians(most float64, cases ...result.Case) func(*result.Result) []figure {
	return func(r *result.Result) (all []figure) {
		for _, c := range cases {
			if v, ok := r.Median(c, result.Agent); ok {
				all = append(all, figure{value: v, goal: most})
			}
		}
		return all
	}
}

// worstMedian returns the medians of the agent in every case of a measure.
func worstMedian(m result.Measure, most float64) func(*result.Result) []figure {
	return func(r *result.Result) []figure { return medians(most, r.Cases(m)...)(r) }
}

func starts(m result.Measure, most float64) func(*result.Result) []figure {
	return func(r *result.Result) []figure {
		return medians(most, only(r.Cases(m), func(c result.Case) bool { return c.Entries == large })...)(r)
	}
}

// flood returns a share in the history, which should be all.
func flood(m result.Measure, variant string) func(*result.Result) []figure {
	return func(r *result.Result) (all []figure) {
		for _, c := range only(r.Cases(m), func(c result.Case) bool { return c.Variant == variant }) {
			if v, ok := r.Median(c, result.Agent); ok {
				all = append(all, figure{value: v, goal: 100, atLeast: true})
			}
		}
		return all
	}
}
