package sikkerapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sameAddr() cmp.Option { return cmp.Comparer(func(a, b netip.Addr) bool { return a == b }) }

func TestCheck(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("203.0.113.9")
	tests := []struct {
		name, raw string
		want      *CheckResult // nil for ErrMalformed
	}{
		{
			name: "OK documented", raw: `{"ip": "203.0.113.9", "found": true, "confidenceLevel": 97,
			"geolocation": {"countryCode": "NL", "countryName": "Netherlands", "city": "Amsterdam", "asn": "AS64500",
			"asnOrg": "Example BV", "isTor": false, "isProxy": true},
			"firstSeen": "2026-01-02T03:04:05Z", "lastSeen": "2026-02-24T10:30:00+01:00",
			"totalSessions": 412, "totalEvents": 9001,
			"protocols": [{"protocol": "ssh", "sessions": 400, "events": 8000}],
			"behaviors": [{"name": "credential_stuffing", "severity": "high", "count": 12, "description": null}]}`,
			want: &CheckResult{
				IP: addr, Found: true, ConfidenceLevel: 97, TotalSessions: 412, TotalEvents: 9001,
				Geolocation: Geolocation{
					CountryCode: "NL", CountryName: "Netherlands", City: "Amsterdam", ASN: "AS64500",
					ASNOrg: "Example BV", IsProxy: true,
				},
				FirstSeen: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), LastSeen: time.Date(2026, 2, 24, 9, 30, 0,
					0, time.UTC),
				Protocols: []ProtocolActivity{{Protocol: "ssh", Sessions: 400, Events: 8000}},
				Behaviors: []Behavior{{Name: "credential_stuffing", Severity: SeverityHigh, Count: 12}},
			},
		},
		{
			name: "OK not found",
			raw:  `{"ip": "203.0.113.9", "found": false, "geolocation": null, "firstSeen": null, "lastSeen": ""}`,
			want: &CheckResult{IP: addr},
		},
		{name: "OK mapped", raw: `{"ip": "::ffff:203.0.113.9"}`, want: &CheckResult{IP: addr}},
		{name: "bad about another", raw: `{"ip": "203.0.113.10", "found": true}`},
		{name: "bad about none", raw: `{"found": true}`},
		{name: "bad time", raw: `{"ip": "203.0.113.9", "lastSeen": "` + strings.Repeat("yesterday", 1000) + `"}`},
		{name: "bad address", raw: `{"ip": "` + strings.Repeat("203.0.113.9", 1000) + `"}`},
		{name: "bad HTML", raw: `<html>`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/key/check/203.0.113.9" {
					t.Errorf("request for %s", r.URL)
				}
				_, _ = io.WriteString(w, tt.raw)
			})
			got, err := c.Check(t.Context(), netip.MustParseAddr("::ffff:203.0.113.9"))
			if tt.want == nil {
				if !errors.Is(err, ErrMalformed) || len(err.Error()) > maxErrorText ||
					!cmp.Equal(got, CheckResult{}, sameAddr()) {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*tt.want, got, sameAddr()); diff != "" {
				t.Errorf("check (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckRefusesAddress(t *testing.T) {
	t.Parallel()
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("request for %s", r.URL) })
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("fe80::1%eth0")} {
		if _, err := c.Check(t.Context(), a); err == nil {
			t.Errorf("%v is accepted", a)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"tier": {"id": "free", "name": "Free"},
			"quotas": {"lookups": {"used": 3, "limit": 1000, "remaining": 997},
			"blacklist": {"used": 1, "limit": 24, "remaining": 23}},
			"alerts": {"ipAlerts": {"current": 0, "limit": 5}}, "new": {"field": 1}}`)
	})
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Status{
		Tier: Tier{ID: "free", Name: "Free"},
		Quotas: Quotas{
			Lookups: Usage{Used: 3, Limit: 1000, Remaining: 997}, Blacklist: Usage{Used: 1, Limit: 24, Remaining: 23},
		},
		Alerts: Alerts{IPAlerts: AlertUsage{Limit: 5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestAnswerTooLarge(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(" ", maxAnswer+1))
	})
	_, err := c.Status(t.Context())
	if large, ok := errors.AsType[*TooLargeError](err); !ok || large.Limit != maxAnswer {
		t.Errorf("status: %v", err)
	}
}

func TestCategory(t *testing.T) {
	t.Parallel()
	want := strings.Fields(`brute_force port_scan ddos web_exploit sql_injection phishing spam bad_bot
		exploited_host malware
		dns_abuse open_proxy iot_targeted spoofing fraud other`)
	var got []string
	for c := BruteForce; c <= Other; c++ {
		raw, err := json.Marshal(c)
		if err != nil || string(raw) != `"`+c.String()+`"` {
			t.Errorf("%v: %s, %v", c, raw, err)
		}
		number, err := json.Marshal(int(c))
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{string(raw), string(number), `"` + string(number) + `"`} {
			var back Category
			if err := json.Unmarshal([]byte(form), &back); err != nil || back != c {
				t.Errorf("%s: %v, %v", form, back, err)
			}
		}
		got = append(got, c.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, bad := range []string{`""`, `0`, `17`, `-1`, `"Port_Scan"`, `null`, `1.0`} {
		c := Other
		if err := json.Unmarshal([]byte(bad), &c); err == nil {
			t.Errorf("%s is %v", bad, c)
		}
	}
	for _, bad := range []Category{0, 17, -1} {
		if raw, err := json.Marshal(bad); err == nil || bad.Valid() {
			t.Errorf("%d is written as %s", int(bad), raw)
		}
	}
}
