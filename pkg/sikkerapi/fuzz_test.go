package sikkerapi

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// FuzzHeader parses any header about quotas and waiting.
func FuzzHeader(f *testing.F) {
	f.Add("1000", "3", "997", "1771977600", "90")
	f.Add("24", "", "0", "-1", "Wed, 25 Feb 2026 00:00:00 GMT")
	f.Add("", "99999999999999999999", "-0", "9223372036854775807", "-9223372036854775808")
	f.Fuzz(func(t *testing.T, limit, used, remaining, reset, after string) {
		now := testNow()
		for _, prefix := range []string{"X-Daily-", "X-RateLimit-", "X-Report-"} {
			h := http.Header{}
			h.Set(prefix+"Limit", limit)
			h.Set(prefix+"Used", used)
			h.Set(prefix+"Remaining", remaining)
			h.Set(prefix+"Reset", reset)
			q := quota(h, now)
			if !q.Known && q != (Quota{}) {
				t.Errorf("not known, and says %+v", q)
			}
			if min(q.Limit, q.Used, q.Remaining) < 0 {
				t.Errorf("negative: %+v", q)
			}
			if q.Reset.After(now.Add(2*maxRetryAfter)) || !q.Reset.IsZero() && q.Reset.Location() != time.UTC {
				t.Errorf("reset: %+v", q)
			}
		}
		wait, ok := retryAfter(after, now)
		if wait < 0 || wait > maxRetryAfter || !ok && wait != 0 {
			t.Errorf("wait %s, %t", wait, ok)
		}
	})
}

// FuzzMessage reads any text of an error.
func FuzzMessage(f *testing.F) {
	f.Add("plain")
	f.Add(`{"error": "` + testKey + `"}`)
	f.Add("sk_test_\x000123456789abcdef")
	f.Add(strings.Repeat("\u202eé\xff", 300))
	c, err := New(testKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, _ := c.message(strings.NewReader(raw))
		if utf8.RuneCountInString(got) > maxMessage || !utf8.ValidString(got) || strings.Contains(got, testKey) {
			t.Errorf("message %q", got)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("unprintable: %q", got)
		}
	})
}

// FuzzDecode decodes any answer. If it is not refused, it satisfies the promises of the types.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"meta": {"generatedAt": 1771900000000, "count": 1}, ` +
		`"data": [{"ip": "203.0.113.9", "lastSeen": "2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"ip": "::ffff:203.0.113.9", "found": true, "firstSeen": 1, "lastSeen": null}`))
	f.Add([]byte(`{"tier": {"id": "free"}, "quotas": {"lookups": {"used": 3}}}`))
	f.Add([]byte(`{"total": 3, "accepted": 2, "rejected": 1, ` +
		`"errors": [{"row": 2, "ip": "10.0.0.1", "error": "private address"}]}`))
	c, err := New(testKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := decodeBlacklist(raw); err == nil {
			for _, e := range b.Entries {
				if !e.Prefix.IsValid() || e.Prefix.Addr().Zone() != "" || !sane(e.LastSeen) {
					t.Errorf("entry %+v", e)
				}
			}
		}
		if r, err := decodeCheck(raw); err == nil && (!r.IP.IsValid() || r.IP.Is4In6() || !sane(r.FirstSeen) ||
			!sane(r.LastSeen)) {
			t.Errorf("check %+v", r)
		}
		if s, err := decodeStatus(raw); err == nil && s.Tier.ID == "" {
			t.Errorf("status %+v", s)
		}
		const rows = 3
		if r, err := c.decodeReportResult(raw, rows); err == nil {
			if r.Total != rows || r.Accepted+r.Rejected != rows || min(r.Accepted, r.Rejected) < 0 ||
				len(r.Errors) > r.Rejected {
				t.Errorf("result %+v", r)
			}
			for _, e := range r.Errors {
				if e.Row < 1 || e.Row > rows || utf8.RuneCountInString(e.Reason) > maxMessage {
					t.Errorf("row %+v", e)
				}
			}
		}
	})
}

// sane reports whether RFC 3339 can represent a time.
func sane(t time.Time) bool {
	_, err := t.MarshalText()
	return err == nil
}
