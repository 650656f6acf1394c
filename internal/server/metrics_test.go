package server_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Accept headers that real clients send.
const (
	acceptPrometheus2 = "application/openmetrics-text;version=1.0.0," +
		"application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
	acceptPrometheus3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5," +
		"application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3," +
		"text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
	acceptProtobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;" +
		"encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
	acceptFirefox = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
)

// TestNegotiation checks that Prometheus gets metrics at /status, every other client JSON, and none
// a refusal.
func TestNegotiation(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, &source{})
	const jsonType, textType, openType = "application/json", "text/plain", "application/openmetrics-text"
	tests := []struct{ name, path, accept, want string }{
		{"OK Prometheus 2", "/status", acceptPrometheus2, openType},
		{"OK Prometheus 3", "/status", acceptPrometheus3, openType},
		{"OK Prometheus with protobuf", "/status", acceptProtobuf, "application/vnd.google.protobuf"},
		{"OK text", "/status", "text/plain", textType},
		{"OK text in capitals", "/status", "Text/Plain; Charset=utf-8", textType},
		{"OK any text", "/status", "text/*", textType},
		{"OK OpenMetrics", "/status", "application/openmetrics-text", openType},
		{"OK text rather than JSON", "/status", "application/json;q=0.5, text/plain;q=0.501", textType},
		{"OK none", "/status", "", jsonType},
		{"OK curl", "/status", "*/*", jsonType},
		{"OK browser", "/status", acceptFirefox, jsonType},
		{"OK script in a page", "/status", "application/json, text/plain, */*", jsonType},
		{"OK JSON rather than text", "/status", "text/plain;q=0.5, application/json;q=0.6", jsonType},
		{"OK any application", "/status", "application/*", jsonType},
		{"OK all but JSON", "/status", "*/*, application/json;q=0", textType},
		{
			"OK all but text", "/status",
			"*/*, text/plain;q=0, application/openmetrics-text;q=0, application/vnd.google.protobuf;q=0", jsonType,
		},
		{"bad unknown type", "/status", "image/png", jsonType},
		{"bad nothing is wanted", "/status", "*/*;q=0", jsonType},
		{"bad quality of two", "/status", "text/plain;q=2", jsonType},
		{"bad quality in words", "/status", "text/plain;q=NaN", jsonType},
		{"bad quality above one", "/status", "text/plain;q=1.001", jsonType},
		{"bad quality of four digits", "/status", "text/plain;q=0.9999", jsonType},
		{"bad quality below zero", "/status", "text/plain;q=-1", jsonType},
		{"bad header", "/status", ";;,,=/;q", jsonType},
		{"bad header before a good one", "/status", "/, text/plain", textType},
		{"OK asked for by the query", "/status?format=prometheus", "*/*", textType},
		{"OK asked for by the query of a browser", "/status?format=prometheus", acceptFirefox, textType},
		{"OK asked for by the query, JSON accepted", "/status?format=prometheus", "application/json", textType},
		{"OK JSON asked for by the query", "/status?format=json", acceptPrometheus2, jsonType},
		{"bad format", "/status?format=xml", "*/*", jsonType},
		{"OK metrics are metrics", "/metrics", "application/json", textType},
		{"OK metrics for OpenMetrics", "/metrics", acceptPrometheus2, openType},
		{"OK metrics with a format", "/metrics?format=json", "", textType},
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.accept != "" {
				req.Header.Set("Accept", tt.accept)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err := errors.Join(err, res.Body.Close()); err != nil {
				t.Error(err)
			}
			kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
			if kind != tt.want || res.StatusCode != http.StatusOK || !strings.Contains(string(body), "blocked") {
				t.Errorf("got %d %s, want %s:\n%s", res.StatusCode, kind, tt.want, body)
			}
			if got := strings.Join(res.Header.Values("Vary"), ", "); got != "Accept" {
				t.Errorf("Vary: %q", got)
			}
		})
	}
}

// TestAcceptOfManyLines checks that an Accept header may span several lines.
func TestAcceptOfManyLines(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, &source{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Accept"] = []string{"application/json;q=0.3", "text/plain;q=0.7"}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
		t.Errorf("got %s", got)
	}
}
