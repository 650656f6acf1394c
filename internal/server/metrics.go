package server

import (
	"mime"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics returns a handler that serves the metrics in the format that the client prefers,
// Prometheus or OpenMetrics. If one metric cannot be read, the others are still served.
func (s *Server) metrics() http.Handler {
	g := s.o.Metrics
	if g == nil {
		g = prometheus.Gatherers(nil)
	}
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:      promhttp.ContinueOnError,
		EnableOpenMetrics:  true,
		DisableCompression: true, // on loopback, compression costs more than it saves
	})
}

// metricTypes returns the media types that Prometheus accepts. Browsers name none of them.
func metricTypes() []string {
	return []string{"text/plain", "application/openmetrics-text", "application/vnd.google.protobuf"}
}

// wantsMetrics reports whether a request for the status gets the metrics. It does if its query says
// so, or if it prefers one of the media types of Prometheus to JSON (RFC 9110, section 12.5.1). If
// it prefers neither, it gets JSON.
func wantsMetrics(r *http.Request) bool {
	switch r.URL.Query().Get("format") {
	case "prometheus":
		return true
	case "json":
		return false
	}
	accepted := parseAccept(strings.Join(r.Header.Values("Accept"), ","))
	best := 0
	for _, t := range metricTypes() {
		best = max(best, accepted.quality(t))
	}
	return best > accepted.quality("application/json")
}

// accept is a parsed Accept header: quality in thousandths by media range.
type accept map[string]int

// parseAccept parses an Accept header and skips malformed parts. If a range occurs several times
// with other parameters, the highest quality counts.
func parseAccept(header string) accept {
	a := accept{}
	for text := range strings.SplitSeq(header, ",") {
		kind, params, err := mime.ParseMediaType(text)
		if err != nil {
			continue
		}
		q, ok := 1000, true
		if text, given := params["q"]; given {
			q, ok = thousandths(text)
		}
		if before, known := a[kind]; ok && (!known || q > before) {
			a[kind] = q
		}
	}
	return a
}

// quality returns the quality of a media type in thousandths. The most specific range that matches
// decides.
func (a accept) quality(kind string) int {
	whole, _, _ := strings.Cut(kind, "/")
	for _, r := range []string{kind, whole + "/*", "*/*"} {
		if q, ok := a[r]; ok {
			return q
		}
	}
	return 0
}

// thousandths parses a quality value: from 0 to 1, with at most three digits after the point.
func thousandths(text string) (int, bool) {
	whole, rest, _ := strings.Cut(text, ".")
	if whole != "0" && whole != "1" || len(rest) > 3 {
		return 0, false
	}
	n := int(whole[0] - '0')
	for _, c := range (rest + "000")[:3] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, n <= 1000
}
