package server

import (
	"mime"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics answers the metrics, in the format of Prometheus or OpenMetrics that the client prefers. A figure that cannot be
// read does not keep the others back.
func (s *Server) metrics() http.Handler {
	g := s.o.Metrics
	if g == nil {
		g = prometheus.Gatherers(nil)
	}
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:      promhttp.ContinueOnError,
		EnableOpenMetrics:  true,
		DisableCompression: true, // on loopback it costs more than it saves
	})
}

// metricTypes are the media types that Prometheus asks for. Browsers ask for none of them by name.
func metricTypes() []string {
	return []string{"text/plain", "application/openmetrics-text", "application/vnd.google.protobuf"}
}

// wantsMetrics says whether a request for the status is one of Prometheus: it says so, or would rather have one of its
// media types than JSON (RFC 9110, section 12.5.1). What asks for neither, or for both alike, gets JSON.
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

// accept is what an Accept header says: thousandths by media range.
type accept map[string]int

// parseAccept reads an Accept header. What is malformed in it is passed over. Of a range that is there several times, with
// other parameters, the best counts.
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
		if before, seen := a[kind]; ok && (!seen || q > before) {
			a[kind] = q
		}
	}
	return a
}

// quality is how much a media type is wanted, in thousandths: the most specific range that holds it decides.
func (a accept) quality(kind string) int {
	whole, _, _ := strings.Cut(kind, "/")
	for _, r := range []string{kind, whole + "/*", "*/*"} {
		if q, ok := a[r]; ok {
			return q
		}
	}
	return 0
}

// thousandths reads a quality value: from 0 to 1, with at most three digits after the point.
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
