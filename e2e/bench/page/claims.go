package page

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sikkerapi/sikkerguard/e2e/bench/measure"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// marked finds a claim in a page: <!-- bench NAME -->text<!-- /bench -->.
var marked = regexp.MustCompile(`(?s)<!-- bench ([a-z-]+) -->(.*?)<!-- /bench -->`)

// claims returns the text of each claim about speed that pages make, by its name. Claims are of the
// largest list that was measured.
func claims() map[string]func(*result.Result) (string, bool) {
	share := func(m result.Measure, who result.Contestant) func(*result.Result) (string, bool) {
		return func(r *result.Result) (string, bool) {
			v, ok := r.Ratio(largest(r, m, "mixed"), who, result.IPSet)
			return number(math.Round(100*v)) + "%", ok
		}
	}
	return map[string]func(*result.Result) (string, bool){
		"refresh": func(r *result.Result) (string, bool) {
			of := largest(r, result.Whole, "mixed")
			whole, ok := r.Median(of, result.Agent)
			of.Measure = result.Changed
			changed, ok2 := r.Median(of, result.Agent)
			return fmt.Sprintf("%s s for another list of %s entries, and %s s if 1%% of them changed",
				number(whole/1000), thousands(strconv.Itoa(of.Entries)), number(changed/1000)), ok && ok2
		},
		"refresh-kernel":  func(r *result.Result) (string, bool) { return onePercent(r, result.Agent) },
		"iptables-kernel": func(r *result.Result) (string, bool) { return onePercent(r, result.AgentIPT) },
		"iptables-refresh": func(r *result.Result) (string, bool) {
			v, ok := r.Ratio(largest(r, result.Whole, "mixed"), result.AgentIPT, result.Agent)
			return number(v) + " times as long", ok
		},
		"blocked":          share(result.Blocked, result.Agent),
		"passing":          share(result.Passing, result.Agent),
		"iptables-blocked": share(result.Blocked, result.AgentIPT),
		"machine": func(r *result.Result) (string, bool) {
			return fmt.Sprintf("measured on %s with %d cores", r.Machine.CPU, r.Machine.Cores), r.Machine.Cores > 0
		},
		"resident": func(r *result.Result) (string, bool) {
			of := largest(r, result.Resident, "mixed")
			v, ok := r.Median(of, result.Agent)
			return fmt.Sprintf("%s MiB with %s entries", number(v), thousands(strconv.Itoa(of.Entries))), ok
		},
		"start": func(r *result.Result) (string, bool) {
			v, ok := r.Median(largest(r, result.ToBlocking, "mixed"), result.Agent)
			return number(v/1000) + " s", ok
		},
		"hash-lookup": func(r *result.Result) (string, bool) { return extra(r, "addresses") },
		"any-lookup":  func(r *result.Result) (string, bool) { return extra(r, "odd") },
	}
}

// largest returns the case with the largest IPv4 list of a shape. Packets in batches do not count. The
// first of several counts.
func largest(r *result.Result, m result.Measure, shape string) result.Case {
	most := result.Case{Measure: m}
	for _, c := range r.Cases(m) {
		if c.Family == 4 && c.Shape == shape && c.Variant != measure.InBatches && c.Entries > most.Entries {
			most = c
		}
	}
	return most
}

// onePercent returns the time that the kernel takes for a list with 1% other entries, with the size
// of the list.
func onePercent(r *result.Result, who result.Contestant) (string, bool) {
	of := largest(r, result.ChangedApply, "mixed")
	v, ok := r.Median(of, who)
	return fmt.Sprintf("%s ms if 1%% of %s entries changed", number(v), thousands(strconv.Itoa(of.Entries))), ok
}

// extra returns the time that the agent's rules add to a passing packet, with the size of the list.
func extra(r *result.Result, shape string) (string, bool) {
	of := largest(r, result.Passing, shape)
	with, ok := r.Median(of, result.Agent)
	without, ok2 := r.Median(of, result.Open)
	return fmt.Sprintf("%s ns with %s", number(math.Round(max(0, with-without))), thousands(strconv.Itoa(of.Entries))),
		ok && ok2
}

// Claim returns a page with the text of its claims from the figures. A claim whose figures were not
// measured stays as it is. A claim without a name that is known is an error.
func Claim(text string, r *result.Result) (string, error) {
	all := claims()
	var unknown []string
	text = marked.ReplaceAllStringFunc(text, func(match string) string {
		name := marked.FindStringSubmatch(match)[1]
		claim, ok := all[name]
		if !ok {
			unknown = append(unknown, name)
			return match
		}
		if said, ok := claim(r); ok {
			return "<!-- bench " + name + " -->" + said + "<!-- /bench -->"
		}
		return match
	})
	if unknown != nil {
		return "", fmt.Errorf("unknown claims %v: known are %v", unknown, slices.Sorted(maps.Keys(all)))
	}
	return text, nil
}

// speed finds figures of speed in a text: a time too short for anything else, a comparison, and the
// time that something takes.
var speed = regexp.MustCompile(`(?i)\d[\d.,–]*\s?(ns|µs)\b` +
	`|\b(took|take|in)\b[^.|]{0,30} \d[\d.,–]*\s?ms\b` +
	`|(times|%) (as|so) (long|fast|slow|quick)|(times|%) (faster|slower|quicker)` +
	`|(load|fill|apply|refresh|take|start)s?\b[^.|]{0,30} (in|under|less than) ` +
	`(a|half a|a few|\d[\d.,]*) ?(milli)?(seconds?|ms|s)\b`)

// Unmarked returns the lines of a page with a figure of speed that is not in a claim.
func Unmarked(text string) []string {
	text = marked.ReplaceAllStringFunc(text, func(match string) string {
		return strings.Repeat("\n", strings.Count(match, "\n")) // the lines keep their numbers
	})
	var all []string
	for line := range strings.Lines(text) {
		if speed.MatchString(line) {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}
