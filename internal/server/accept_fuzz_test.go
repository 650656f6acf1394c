package server

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
)

// FuzzAccept checks that for any Accept header a quality is from 0 to 1, as a parser of numbers
// reads it, and that a header that also wants JSON with quality 1 gets JSON.
func FuzzAccept(f *testing.F) {
	for _, s := range []string{
		"", "*/*", "text/plain;q=0.5, */*;q=0.1",
		"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
		"text/*;q=1.001", "/;q=", `text/plain;a="x,y";q=0.3`, "TEXT/PLAIN", "a/b;q=0.9999",
	} {
		f.Add(s, "0.75")
	}
	f.Fuzz(func(t *testing.T, header, q string) {
		a := parseAccept(header)
		for _, kind := range append(metricTypes(), "application/json", "image/png") {
			if n := a.quality(kind); n < 0 || n > 1000 {
				t.Errorf("%s: %d thousandths", kind, n)
			}
		}
		if n, ok := thousandths(q); ok {
			if v, err := strconv.ParseFloat(q, 64); err != nil || int(v*1000+.5) != n {
				t.Errorf("%q: %d thousandths, a number is %v (%v)", q, n, v, err)
			}
		}
		r := &http.Request{URL: &url.URL{Path: "/status"}, Header: http.Header{"Accept": {header, "application/json"}}}
		if wantsMetrics(r) {
			t.Errorf("%q and JSON: metrics", header)
		}
	})
}
