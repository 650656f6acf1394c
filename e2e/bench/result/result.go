// Package result holds the figures of a run, and the arithmetic of the page that shows them.
package result

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// Measure is a measured quantity. Its name is stable: the page and the claims ask for it.
type Measure string

// Measures. The unit of their values is in the name of the constant's comment.
const (
	Blocked      Measure = "blocked"       // ns of processor time for a packet that is dropped
	Passing      Measure = "passing"       // ns of processor time for a packet that reaches its socket
	Whole        Measure = "whole"         // ms from the order until a list without a common entry is in force
	Changed      Measure = "changed"       // ms from the order until a list with 1% other entries is in force
	ChangedApply Measure = "changed-apply" // ms of that between the first request to the kernel and its last answer
	Peak         Measure = "peak"          // MiB resident, the highest during Whole
	Resident     Measure = "resident"      // MiB resident at rest
	Owner        Measure = "owner"         // MiB of that, by owner
	WakeUps      Measure = "wake-ups"      // a second at rest
	ToBlocking   Measure = "to-blocking"   // ms from the start until the list is in force
	ToRunning    Measure = "to-running"    // ms from the start until everything runs
	Sources      Measure = "sources"       // percent of the sources that the history has
	Counted      Measure = "counted"       // percent of the packets that the history has
	Rate         Measure = "rate"          // packets sent a second
	CPU          Measure = "cpu"           // percent of a core
	Record       Measure = "record"        // µs to store a hit
	Load         Measure = "load"          // ms from the start of a program until its list is in force
)

// Contestant is a program that is measured.
type Contestant string

// Contestants.
const (
	Agent      Contestant = "SikkerGuard"
	AgentIPT   Contestant = "SikkerGuard with iptables"
	IPSet      Contestant = "iptables + ipset"
	NFT        Contestant = "nft -f"
	XDP        Contestant = "XDP"
	Open       Contestant = "no firewall"
	Bouncer    Contestant = "cs-firewall-bouncer"
	BouncerAPI Contestant = "crowdsec"
)

// Case is a measurement, apart from the contestant.
type Case struct {
	Measure Measure `json:"measure"`
	Family  int     `json:"family,omitempty"`  // 4 or 6
	Shape   string  `json:"shape,omitempty"`   // of the list
	Entries int     `json:"entries,omitempty"` // of the list
	Variant string  `json:"variant,omitempty"` // such as the kind of gateway
}

// Sample is the values of one contestant in one case, in the order of the rounds. The values of the
// contestants with the same index were measured one after the other.
type Sample struct {
	Case

	Contestant Contestant `json:"contestant"`
	Values     []float64  `json:"values"`
}

// Machine is the machine of a run.
type Machine struct {
	CPU    string            `json:"cpu"`
	Cores  int               `json:"cores"`
	Memory int               `json:"memoryMiB"`
	Kernel string            `json:"kernel"`
	Go     string            `json:"go"`
	System string            `json:"system"`
	Peers  map[string]string `json:"peers"` // versions
}

// Result is a run.
type Result struct {
	Time    time.Time `json:"time"`
	Commit  string    `json:"commit"`
	Plan    string    `json:"plan"` // full, quick or tiny
	Took    string    `json:"took"`
	Machine Machine   `json:"machine"`
	Samples []Sample  `json:"samples"`
}

// Add appends a value to the sample of a contestant in a case.
func (r *Result) Add(c Case, who Contestant, values ...float64) {
	i := slices.IndexFunc(r.Samples, func(s Sample) bool { return s.Case == c && s.Contestant == who })
	if i < 0 {
		i = len(r.Samples)
		r.Samples = append(r.Samples, Sample{Case: c, Contestant: who})
	}
	for _, v := range values {
		r.Samples[i].Values = append(r.Samples[i].Values, significant(v))
	}
}

// Values returns the values of a contestant in a case, or nil.
func (r *Result) Values(c Case, who Contestant) []float64 {
	for _, s := range r.Samples {
		if s.Case == c && s.Contestant == who {
			return s.Values
		}
	}
	return nil
}

// Cases returns the cases with a measure, in the order in which they were measured.
func (r *Result) Cases(m Measure) []Case {
	var all []Case
	for _, s := range r.Samples {
		if s.Measure == m && !slices.Contains(all, s.Case) {
			all = append(all, s.Case)
		}
	}
	return all
}

// Median returns the median of a contestant's values in a case. ok is false without a value.
func (r *Result) Median(c Case, who Contestant) (median float64, ok bool) {
	values := r.Values(c, who)
	return Median(values), len(values) > 0
}

// Ratio returns the median of the ratios of two contestants, round by round. ok is false if they
// have no round in common.
func (r *Result) Ratio(c Case, who, to Contestant) (ratio float64, ok bool) {
	a, b := r.Values(c, who), r.Values(c, to)
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return Median(ratios), len(ratios) > 0
}

// Median returns the median, or NaN without a value.
func Median(values []float64) float64 { return quantile(values, 0.5) }

// Spread returns half the distance between the quartiles, as a share of the median: half of the
// values are within this share of the middle. It returns NaN without a value.
func Spread(values []float64) float64 {
	return (quantile(values, 0.75) - quantile(values, 0.25)) / 2 / Median(values)
}

// quantile interpolates between the two nearest values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// significant rounds to five digits: more would be noise, and a larger file.
func significant(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// Read reads a run from a file.
func Read(path string) (*Result, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Result{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	return r, nil
}

// Encode returns the run as JSON, a sample a line.
func (r *Result) Encode() ([]byte, error) {
	head := *r
	head.Samples = nil
	raw, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, s := range r.Samples {
		line, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("encode %s of %s: %w", s.Measure, s.Contestant, err)
		}
		lines = append(lines, "    "+string(line))
	}
	list := "[\n" + strings.Join(lines, ",\n") + "\n  ]"
	return []byte(strings.Replace(string(raw), `"samples": null`, `"samples": `+list, 1) + "\n"), nil
}
