package apisim

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxRows = 10_000
	maxBody = 2_000_000 // bytes
)

// Report is an accepted row.
type Report struct {
	IP       netip.Addr `json:"ip"`
	Category string     `json:"category"` // name
	Protocol string     `json:"protocol"`
	Comment  string     `json:"comment"`
	Time     time.Time  `json:"time"` // time of acceptance
}

// row is a row of a request. The category is a name or a number.
type row struct {
	IP       string          `json:"ip"`
	Category json.RawMessage `json:"category"`
	Protocol string          `json:"protocol"`
	Comment  string          `json:"comment"`
}

// rowError is the reason why a row was not accepted.
type rowError struct {
	Row   int    `json:"row"`
	IP    string `json:"ip"`
	Error string `json:"error"`
}

// bulkReport answers POST /v1/key/bulk-report.
func (s *Sim) bulkReport(r *http.Request) answer {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return refuse(http.StatusBadRequest, "body cut short")
	}
	if len(raw) > maxBody {
		return refuse(http.StatusRequestEntityTooLarge, "body is larger than 2 MB")
	}
	var sent struct {
		Reports []row `json:"reports"`
	}
	if err := json.Unmarshal(raw, &sent); err != nil {
		return refuse(http.StatusBadRequest, "body is not JSON of reports")
	}
	if len(sent.Reports) == 0 || len(sent.Reports) > maxRows {
		return refuse(http.StatusBadRequest, "want 1 to 10,000 reports")
	}
	return s.accept(sent.Reports)
}

// accept checks the rows and stores the good ones, as many as the quota has left.
func (s *Sim) accept(rows []row) answer {
	var good []Report
	var at []int // positions of the good ones, from 1
	bad := []rowError{}
	for i, r := range rows {
		report, err := r.check()
		if err != nil {
			bad = append(bad, rowError{Row: i + 1, IP: r.IP, Error: err.Error()})
			continue
		}
		report.Time = s.o.Now().UTC()
		good, at = append(good, report), append(at, i+1)
	}
	taken, h := s.take(reports, len(good))
	if taken == 0 && len(good) > 0 {
		return s.spent(h)
	}
	for i, r := range good[taken:] {
		bad = append(bad, rowError{Row: at[taken+i], IP: r.IP.String(), Error: "daily quota exceeded"})
	}
	s.mu.Lock()
	s.reports = appendLast(s.reports, maxReports, good[:taken]...)
	s.mu.Unlock()
	return reply(h, map[string]any{"total": len(rows), "accepted": taken, "rejected": len(bad), "errors": bad})
}

// check returns the report of a row, or the reason why it is refused.
func (r row) check() (Report, error) {
	a, err := netip.ParseAddr(r.IP)
	switch {
	case err != nil || a.Zone() != "":
		return Report{}, errors.New("invalid address")
	case !public(a.Unmap()):
		return Report{}, errors.New("private address")
	case utf8.RuneCountInString(r.Protocol) > 32:
		return Report{}, errors.New("protocol is longer than 32 characters")
	case utf8.RuneCountInString(r.Comment) > 1000:
		return Report{}, errors.New("comment is longer than 1000 characters")
	}
	category := strings.Trim(string(r.Category), `"`)
	for i, name := range categories() {
		if category == name || category == strconv.Itoa(i+1) {
			return Report{IP: a.Unmap(), Category: name, Protocol: r.Protocol, Comment: r.Comment}, nil
		}
	}
	return Report{}, errors.New("invalid category")
}

// public reports whether an address may be reported. Documentation addresses may, because tests
// have no others.
func public(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) // RFC 6598
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

// categories returns the names of the numbers 1 to 16.
func categories() []string {
	return strings.Fields(`brute_force port_scan ddos web_exploit sql_injection phishing spam bad_bot exploited_host
		malware dns_abuse open_proxy iot_targeted spoofing fraud other`)
}
