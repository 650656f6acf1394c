package sikkerapi

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
)

// IPVersion selects a family of addresses.
type IPVersion string

// The families. The zero value selects the default of the API, which is Mixed.
const (
	IPv4  IPVersion = "4"
	IPv6  IPVersion = "6"
	Mixed IPVersion = "mixed"
)

// Severity is a rating of the behaviour of an address.
type Severity string

// The severities, in ascending order. The zero value means any.
const (
	SeverityLow      Severity = "low"
	SeverityMedium   Severity = "medium"
	SeverityHigh     Severity = "high"
	SeverityVeryHigh Severity = "very_high"
)

// BlacklistQuery selects the entries of the blacklist. The zero value selects the defaults of the
// API: a confidence of 50 or more, as many addresses as the tier allows, both families.
type BlacklistQuery struct {
	ScoreMinimum    int       // lowest confidence, 1–100; 0 for the default of the API
	Limit           int       // largest number of addresses; 0 for as many as the tier allows
	IPVersion       IPVersion // empty for both
	OnlyCountries   []string  // ISO 3166 codes of two capital letters, like "NL"
	ExceptCountries []string
	OnlyASN         []uint32 // autonomous system numbers
	ExceptASN       []uint32
	Protocols       []string // only addresses with activity on these, like "ssh"
	MinSeverity     Severity // empty for any
	IgnoreWhitelist bool     // raw scores, including those of known harmless scanners
}

// values checks the query and encodes it. The error contains all problems.
func (q BlacklistQuery) values() (url.Values, error) {
	v := url.Values{}
	err := errors.Join(
		setNumber(v, "scoreMinimum", q.ScoreMinimum, 100),
		setNumber(v, "limit", q.Limit, math.MaxInt32),
		setChoice(v, "ipVersion", q.IPVersion, IPv4, IPv6, Mixed),
		setList(v, "onlyCountries", q.OnlyCountries, isCountry),
		setList(v, "exceptCountries", q.ExceptCountries, isCountry),
		setList(v, "onlyAsn", asns(q.OnlyASN), isASN),
		setList(v, "exceptAsn", asns(q.ExceptASN), isASN),
		setList(v, "protocols", q.Protocols, isProtocol),
		setChoice(v, "minSeverity", q.MinSeverity, SeverityLow, SeverityMedium, SeverityHigh, SeverityVeryHigh),
	)
	if err != nil {
		return nil, fmt.Errorf("check blacklist query: %w", err)
	}
	if q.IgnoreWhitelist {
		v.Set("ignoreWhitelist", "true")
	}
	return v, nil
}

func setNumber(v url.Values, name string, n, most int) error {
	if n < 0 || n > most {
		return fmt.Errorf("%s is %d: want 1 to %d, or 0 for the default", name, n, most)
	}
	if n > 0 {
		v.Set(name, strconv.Itoa(n))
	}
	return nil
}

func setChoice[T ~string](v url.Values, name string, chosen T, choices ...T) error {
	if chosen == "" {
		return nil
	}
	for _, c := range choices {
		if c == chosen {
			v.Set(name, string(c))
			return nil
		}
	}
	return fmt.Errorf("%s is %.60q: want one of %q", name, string(chosen), choices)
}

func setList(v url.Values, name string, elements []string, valid func(string) bool) error {
	for i, e := range elements {
		if !valid(e) {
			return fmt.Errorf("%s: element %d is %.60q", name, i+1, e)
		}
	}
	if len(elements) > 0 {
		v.Set(name, strings.Join(elements, ","))
	}
	return nil
}

func isCountry(s string) bool {
	return len(s) == 2 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func isProtocol(s string) bool {
	return len(s) > 0 && len(s) <= MaxProtocol && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// isASN refuses AS0, which is reserved (RFC 7607).
func isASN(s string) bool { return s != "AS0" }

func asns(numbers []uint32) []string {
	ss := make([]string, 0, len(numbers))
	for _, n := range numbers {
		ss = append(ss, "AS"+strconv.FormatUint(uint64(n), 10))
	}
	return ss
}
