package apisim

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// query is the parameters of a pull that select entries here.
type query struct {
	score, limit int
	version      string
	plaintext    bool
}

// blacklist answers GET /v1/key/blacklist.
func (s *Sim) blacklist(r *http.Request) answer {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	all, err := s.list()
	if err != nil {
		return refuse(http.StatusInternalServerError, err.Error())
	}
	n, h := s.take(pulls, 1)
	if n == 0 {
		return s.spent(h)
	}
	if q.limit == 0 || q.limit > s.tier.addresses {
		q.limit = s.tier.addresses
	}
	all = slices.DeleteFunc(all, func(e entry) bool { return !q.selects(e) })
	all = all[:min(len(all), q.limit)]
	if !q.plaintext {
		return reply(h, s.asJSON(all, q))
	}
	var text strings.Builder
	for _, e := range all {
		text.WriteString(e.text + "\n")
	}
	return answer{status: http.StatusOK, header: h, kind: "text/plain; charset=utf-8", body: []byte(text.String())}
}

// selects reports whether the query selects an entry. An entry that is not an address has no family
// and is only in plain text.
func (q query) selects(e entry) bool {
	if !e.prefix.IsValid() {
		return q.plaintext
	}
	return e.score >= q.score && (q.version == "mixed" || (q.version == "4") == e.prefix.Addr().Is4())
}

// asJSON returns the long form. Fields that are not in the list are invented, and always the same.
func (s *Sim) asJSON(all []entry, q query) any {
	now := s.o.Now().UnixMilli()
	data := make([]map[string]any, 0, len(all))
	for _, e := range all {
		data = append(data, map[string]any{
			"ip": e.text, "confidenceLevel": e.score, "lastSeen": now, "sessions": 412,
			"protocols": []string{"ssh", "telnet"}, "countryCode": "NL", "asn": "AS64500", "asnOrg": "Example BV",
		})
	}
	meta := map[string]any{"generatedAt": now, "scoreMinimum": q.score, "limit": q.limit, "count": len(data)}
	return map[string]any{"meta": meta, "data": data}
}

// parseQuery checks every parameter. It refuses a parameter that is not documented: a client that
// sends it has a fault.
func parseQuery(v url.Values) (query, error) {
	q := query{score: 50, version: "mixed"}
	var errs []error
	for name, values := range v {
		err := errors.New("given more than once")
		if len(values) == 1 {
			err = q.set(name, values[0])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return q, errors.Join(errs...)
}

func (q *query) set(name, value string) (err error) {
	switch name {
	case "scoreMinimum":
		q.score, err = number(value, 100)
	case "limit":
		q.limit, err = number(value, 1<<31-1)
	case "plaintext":
		q.plaintext, err = truth(value)
	case "ipVersion":
		q.version = value
		err = oneOf(value, "4", "6", "mixed")
	case "ignoreWhitelist":
		_, err = truth(value)
	case "minSeverity":
		err = oneOf(value, "low", "medium", "high", "very_high")
	case "onlyCountries", "exceptCountries":
		err = each(value, func(s string) bool { return len(s) == 2 && strings.ToUpper(s) != strings.ToLower(s) })
	case "onlyAsn", "exceptAsn":
		err = each(value, func(s string) bool {
			digits, ok := strings.CutPrefix(s, "AS")
			n, err := strconv.ParseUint(digits, 10, 32)
			return ok && err == nil && n > 0
		})
	case "protocols":
		err = each(value, func(s string) bool { return s != "" && len(s) <= 32 })
	default:
		err = errors.New("unknown parameter")
	}
	return err
}

func number(s string, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("want 1 to %d", most)
	}
	return n, nil
}

func truth(s string) (bool, error) { return s == "true", oneOf(s, "true", "false") }

func oneOf(s string, choices ...string) error {
	if slices.Contains(choices, s) {
		return nil
	}
	return fmt.Errorf("want one of %v", choices)
}

func each(list string, valid func(string) bool) error {
	for e := range strings.SplitSeq(list, ",") {
		if !valid(e) {
			return fmt.Errorf("%q is not valid", e)
		}
	}
	return nil
}
