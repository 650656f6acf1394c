package sikkerapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, err := io.WriteString(z, text)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestBlacklistQuery(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		q    BlacklistQuery
		want string // "bad" for an error
	}{
		{name: "OK zero"},
		{name: "OK everything", q: BlacklistQuery{
			ScoreMinimum: 100, Limit: 5000, IPVersion: Mixed, OnlyCountries: []string{"NL", "DE"},
			ExceptCountries: []string{"US"},
			OnlyASN:         []uint32{64500, 4294967295}, ExceptASN: []uint32{1}, Protocols: []string{"ssh", "http"},
			MinSeverity: SeverityVeryHigh, IgnoreWhitelist: true,
		}, want: "exceptAsn=AS1&exceptCountries=US&ignoreWhitelist=true&ipVersion=mixed&limit=5000" +
			"&minSeverity=very_high&onlyAsn=AS64500%2CAS4294967295&onlyCountries=NL%2CDE" +
			"&protocols=ssh%2Chttp&scoreMinimum=100"},
		{name: "bad score below", q: BlacklistQuery{ScoreMinimum: -1}, want: "bad"},
		{name: "bad score above", q: BlacklistQuery{ScoreMinimum: 101}, want: "bad"},
		{name: "bad limit", q: BlacklistQuery{Limit: -1}, want: "bad"},
		{name: "bad version", q: BlacklistQuery{IPVersion: "5"}, want: "bad"},
		{name: "bad severity", q: BlacklistQuery{MinSeverity: "worst"}, want: "bad"},
		{name: "bad country, small letters", q: BlacklistQuery{OnlyCountries: []string{"nl"}}, want: "bad"},
		{name: "bad country, injected", q: BlacklistQuery{ExceptCountries: []string{"NL,DE"}}, want: "bad"},
		{name: "bad ASN", q: BlacklistQuery{OnlyASN: []uint32{0}}, want: "bad"},
		{name: "bad protocol", q: BlacklistQuery{Protocols: []string{"ssh", ""}}, want: "bad"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := tt.q.values()
			got := v.Encode()
			if err != nil {
				got = "bad"
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("query (-want +got):\n%s(%v)", diff, err)
			}
		})
	}
}

func TestBlacklistBody(t *testing.T) {
	t.Parallel()
	const list = "203.0.113.9\n2001:db8::/64\n"
	noise := bytes.Repeat([]byte("\x00\xff\x13"), 50)
	tests := []struct {
		name     string
		encoding string
		body     []byte
		length   int // of the header; 0 for the true one
		want     string
		is       error
		tempo    bool // the error is a TemporaryError
	}{
		{name: "OK plain", body: []byte(list), want: list},
		{name: "OK empty", want: ""},
		{name: "OK gzip", encoding: "gzip", body: zipped(t, list), want: list},
		{name: "OK x-gzip", encoding: "X-GZIP", body: zipped(t, list), want: list},
		{
			name: "OK gzip in parts", encoding: "gzip", body: append(zipped(t, list), zipped(t, list)...),
			want: list + list,
		},
		{name: "bad cut short", body: []byte(list), length: 999, want: list, is: io.ErrUnexpectedEOF, tempo: true},
		{
			name: "bad gzip cut on the way", encoding: "gzip", body: zipped(t, list)[:20], length: 999,
			is: io.ErrUnexpectedEOF, tempo: true,
		},
		{
			name: "bad gzip cut before", encoding: "gzip", body: zipped(t, list)[:20], is: io.ErrUnexpectedEOF,
			tempo: true,
		},
		{name: "bad gzip empty", encoding: "gzip", is: io.ErrUnexpectedEOF, tempo: true},
		{name: "bad gzip header", encoding: "gzip", body: []byte(list), is: ErrDecompress},
		{name: "bad gzip middle", encoding: "gzip", body: append(zipped(t, list)[:10:10], noise...), is: ErrDecompress},
		{
			name: "bad gzip end", encoding: "gzip", body: append(zipped(t, list), noise...), want: list,
			is: ErrDecompress,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				w.Header().Set("Content-Length", strconv.Itoa(max(tt.length, len(tt.body))))
				if tt.encoding != "" {
					w.Header().Set("Content-Encoding", tt.encoding)
				}
				_, _ = w.Write(tt.body)
			})
			s, err := c.Blacklist(t.Context(), BlacklistQuery{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(s)
			if !errors.Is(err, tt.is) || (tt.is == nil) != (err == nil) {
				t.Errorf("read: %v, want %v", err, tt.is)
			}
			if _, ok := errors.AsType[*TemporaryError](err); ok != tt.tempo {
				t.Errorf("temporary is %t: %v", ok, err)
			}
			if tt.is == nil || tt.want != "" {
				if diff := cmp.Diff(tt.want, string(got)); diff != "" {
					t.Errorf("body (-want +got):\n%s", diff)
				}
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// TestBlacklistWithoutLengthMustEndItsLastLine sends a list that was cut at 80%, in the ways in
// which only the content can show it.
func TestBlacklistWithoutLengthMustEndItsLastLine(t *testing.T) {
	t.Parallel()
	const list = "203.0.113.1\n203.0.113.2\n203.0.113.3\n203.0.113.4\n203.0.113.45\n"
	cut := list[:len(list)-2] // the last line is another address
	chunked := func(w http.ResponseWriter, body string) {
		_, _ = io.WriteString(w, body[:5])
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, body[5:])
	}
	closed := func(w http.ResponseWriter, body string) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"+body)
		_ = conn.Close()
	}
	old := func(w http.ResponseWriter, body string) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+body)
		_ = conn.Close()
	}
	measured := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.WriteString(w, body)
	}
	compressed := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, body[:5])
		_ = errors.Join(z.Flush(), http.NewResponseController(w).Flush())
		_, _ = io.WriteString(z, body[5:])
		_ = z.Close()
	}
	tests := []struct {
		name string
		send func(http.ResponseWriter, string)
		body string
		bad  bool
	}{
		{"bad chunked", chunked, cut, true},
		{"bad until the connection closes", closed, cut, true},
		{"bad HTTP/1.0", old, cut, true},
		{"OK chunked", chunked, list, false},
		{"OK until the connection closes", closed, list, false},
		{"OK HTTP/1.0", old, list, false},
		{"OK nothing until the connection closes", closed, "", false},
		{"OK with a length, the last line without an end", measured, cut, false},
		{"OK compressed, the last line without an end", compressed, cut, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { tt.send(w, tt.body) })
			s, err := c.Blacklist(t.Context(), BlacklistQuery{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(s)
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if string(got) != tt.body {
				t.Errorf("body: got %q, want %q", got, tt.body)
			}
			if !tt.bad {
				if err != nil {
					t.Errorf("read: %v", err)
				}
				return
			}
			if _, ok := errors.AsType[*TemporaryError](err); !ok || !errors.Is(err, ErrUnended) ||
				!errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("read: got %v, want a temporary error that is ErrUnended", err)
			}
		})
	}
}

// TestBlacklistJSONCount checks that the count in the answer is compared with the number of
// entries.
func TestBlacklistJSONCount(t *testing.T) {
	t.Parallel()
	for body, ok := range map[string]bool{
		`{"meta": {"count": 1}, "data": [{"ip": "203.0.113.9"}]}`: true,
		`{"meta": {}, "data": [{"ip": "203.0.113.9"}]}`:           true,
		`{"meta": {"count": 2}, "data": [{"ip": "203.0.113.9"}]}`: false,
		`{"meta": {"count": 1}}`:                                  false,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		})
		res, err := c.BlacklistJSON(t.Context(), BlacklistQuery{})
		if ok != (err == nil) || !ok && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %d entries, %v", body, len(res.Entries), err)
		}
	}
}

func TestBlacklistEncodingNotAskedFor(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "br") })
	if _, err := c.Blacklist(t.Context(), BlacklistQuery{}); !errors.Is(err, ErrDecompress) {
		t.Errorf("brotli: %v", err)
	}
}

// TestBlacklistTooLarge sends a small body that decompresses to a large one.
func TestBlacklistTooLarge(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("203.0.113.9\n", 1<<16)
	part := zipped(t, line)
	for name, body := range map[string]func(w io.Writer){
		"plain": func(w io.Writer) {
			for range BlacklistMaxBytes/len(line) + 1 {
				_, _ = io.WriteString(w, line)
			}
		},
		"gzip": func(w io.Writer) {
			for range BlacklistMaxBytes/len(line) + 1 {
				_, _ = w.Write(part)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if name == "gzip" {
					w.Header().Set("Content-Encoding", "gzip")
				}
				body(w)
			})
			s, err := c.Blacklist(t.Context(), BlacklistQuery{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			n, err := io.Copy(io.Discard, s)
			large, ok := errors.AsType[*TooLargeError](err)
			if !ok || large.Limit != BlacklistMaxBytes || n != BlacklistMaxBytes {
				t.Errorf("read %d bytes: %v", n, err)
			}
		})
	}
}

// TestBlacklistStalls has a server that hangs in the middle of the body. The context ends the read.
func TestBlacklistStalls(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "203.0.113.9\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Blacklist(ctx, BlacklistQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := io.ReadFull(s, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.ReadAll(s)
	if _, ok := errors.AsType[*TemporaryError](err); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
}

func TestBlacklistTellsTypeAndQuota(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("X-RateLimit-Limit", "24")
		w.Header().Set("X-RateLimit-Remaining", "20")
		_, _ = io.WriteString(w, r.URL.RawQuery)
	})
	s, err := c.Blacklist(t.Context(), BlacklistQuery{ScoreMinimum: 75})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	got, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	want := &BlacklistStream{ContentType: "text/html", Quota: Quota{Known: true, Limit: 24, Used: 4, Remaining: 20}}
	if diff := cmp.Diff(want, s, cmpopts.IgnoreFields(BlacklistStream{}, "ReadCloser")); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("plaintext=true&scoreMinimum=75", string(got)); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
}

func TestDecodeBlacklist(t *testing.T) {
	t.Parallel()
	const meta = `{"meta": {"generatedAt": 1771900000000, "scoreMinimum": 50, "limit": 5000, "count": 2}, "data": `
	full := BlacklistMeta{GeneratedAt: time.UnixMilli(1771900000000).UTC(), ScoreMinimum: 50, Limit: 5000, Count: 2}
	tests := []struct {
		name, raw string
		want      *BlacklistResponse // nil for an error
	}{
		{
			name: "OK documented", raw: meta + `[{"ip": "203.0.113.9", "confidenceLevel": 97, "lastSeen": 1771890000000,
			"sessions": 412, "protocols": ["ssh", "telnet"], "countryCode": "NL", "asn": "AS64500",
			"asnOrg": "Example BV"}, {"ip": "2001:db8::/64"}]}`,
			want: &BlacklistResponse{Meta: full, Entries: []BlacklistEntry{
				{
					Prefix: netip.MustParsePrefix("203.0.113.9/32"), ConfidenceLevel: 97, Sessions: 412,
					LastSeen: time.UnixMilli(1771890000000).UTC(), Protocols: []string{"ssh", "telnet"},
					CountryCode: "NL",
					ASN:         "AS64500", ASNOrg: "Example BV",
				},
				{Prefix: netip.MustParsePrefix("2001:db8::/64")},
			}},
		},
		{name: "OK empty", raw: meta + `[]}`, want: &BlacklistResponse{Meta: full, Entries: []BlacklistEntry{}}},
		{name: "bad no JSON", raw: `<html>`},
		{name: "bad nothing", raw: ``},
		{name: "bad cut", raw: meta},
		{name: "bad two", raw: meta + `[]} {}`},
		{name: "bad other JSON", raw: `{"error": "no"}`},
		{name: "bad address", raw: meta + `[{"ip": "203.0.113"}]}`},
		{name: "bad zone", raw: meta + `[{"ip": "fe80::1%eth0"}]}`},
		{name: "bad time", raw: `{"meta": {"generatedAt": -1}}`},
		{name: "bad time, far", raw: `{"meta": {"generatedAt": 999999999999999999}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := decodeBlacklist([]byte(tt.raw))
			if (err == nil) != (tt.want != nil) {
				t.Fatalf("decode: %v", err)
			}
			if err == nil {
				same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
				if diff := cmp.Diff(*tt.want, got, same); diff != "" {
					t.Errorf("blacklist (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestPageIsNoList checks that an answer of a portal or a CDN with status 200 is not a list, and is
// a temporary error.
func TestPageIsNoList(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		body, kind string
		zip, page  bool
		quota      string
	}{
		"page":                      {body: "<!DOCTYPE html>\n203.0.113.1\n", kind: "text/html", page: true},
		"page behind space":         {body: strings.Repeat(" \r\n", 9000) + "\ufeff<html>", page: true},
		"page, compressed":          {body: "<html>\n", zip: true, page: true},
		"page without a type":       {body: "<html>\n", page: true},
		"JSON":                      {body: `{"error": "maintenance"}`, page: true},
		"list with the type of one": {body: "203.0.113.1\n", kind: "text/html"},
		"list behind space":         {body: "\n\n203.0.113.1\n"},
		"page of the API itself":    {body: "<html>\n", quota: "24"},
		"list and then a page":      {body: "203.0.113.1\n<html>\n"},
		"nothing":                   {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				w.Header().Set("X-Daily-Limit", tt.quota)
				w.Header().Set("X-Daily-Used", tt.quota)
				raw := []byte(tt.body)
				if tt.zip {
					w.Header().Set("Content-Encoding", "gzip")
					raw = zipped(t, tt.body)
				}
				_, _ = w.Write(raw)
			})
			s, err := c.Blacklist(t.Context(), BlacklistQuery{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			got, err := io.ReadAll(s)
			_, temporary := errors.AsType[*TemporaryError](err)
			api, answered := errors.AsType[*APIError](err)
			if tt.page != (temporary && answered && api.Foreign) || !tt.page && string(got) != tt.body {
				t.Errorf("read %q, %v", got, err)
			}
			if _, again := s.Read(make([]byte, 9)); tt.page && !errors.Is(again, err) {
				t.Errorf("read again: %v", again)
			}
		})
	}
}
