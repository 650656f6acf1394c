package sikkerapi

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func TestQuota(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		h    http.Header
		want Quota
	}{
		{name: "OK none"},
		{
			name: "OK new", h: header("X-Daily-Limit", "1000", "X-Daily-Used", "3", "X-Daily-Remaining", "997"),
			want: Quota{Known: true, Limit: 1000, Used: 3, Remaining: 997},
		},
		{
			name: "OK new without used", h: header("X-Daily-Limit", "1000", "X-Daily-Remaining", "997"),
			want: Quota{Known: true, Limit: 1000, Used: 3, Remaining: 997},
		},
		{
			name: "OK new without remaining", h: header("X-Daily-Limit", "1000", "X-Daily-Used", "1003"),
			want: Quota{Known: true, Limit: 1000, Used: 1003},
		},
		{
			name: "OK old", h: header("X-RateLimit-Limit", "24", "X-RateLimit-Remaining", "23", "X-RateLimit-Reset",
				"1771977600"),
			want: Quota{
				Known: true, Limit: 24, Used: 1, Remaining: 23, Reset: time.Date(2026, 2, 25, 0, 0, 0, 0, time.UTC),
			},
		},
		{
			name: "OK old, seconds", h: header("X-RateLimit-Limit", "24", "X-RateLimit-Remaining", "23",
				"X-RateLimit-Reset", "2700"),
			want: Quota{
				Known: true, Limit: 24, Used: 1, Remaining: 23, Reset: time.Date(2026, 2, 25, 0, 0, 0, 0, time.UTC),
			},
		},
		{
			name: "OK old, a reset that has passed", h: header("X-RateLimit-Limit", "24", "X-RateLimit-Remaining", "23",
				"X-RateLimit-Reset", "1000000000"),
			want: Quota{Known: true, Limit: 24, Used: 1, Remaining: 23},
		},
		{
			name: "OK old, impossible reset", h: header("X-RateLimit-Limit", "24", "X-RateLimit-Remaining", "23",
				"X-RateLimit-Reset", "99999999999"),
			want: Quota{Known: true, Limit: 24, Used: 1, Remaining: 23},
		},
		{
			name: "OK reports", h: header("X-Report-Limit", "1000", "X-Report-Remaining", "0"),
			want: Quota{Known: true, Limit: 1000, Used: 1000},
		},
		{name: "OK both, the new one counts", h: header("X-Daily-Limit", "7", "X-Daily-Used", "1", "X-RateLimit-Limit",
			"9",
			"X-RateLimit-Remaining", "9"), want: Quota{Known: true, Limit: 7, Used: 1, Remaining: 6}},
		{
			name: "OK new is invalid, old is read", h: header("X-Daily-Limit", "many", "X-RateLimit-Limit", "9",
				"X-RateLimit-Remaining", "9"),
			want: Quota{Known: true, Limit: 9, Remaining: 9},
		},
		{name: "bad limit alone", h: header("X-Daily-Limit", "7")},
		{name: "bad negative", h: header("X-Daily-Limit", "-7", "X-Daily-Used", "1")},
		{name: "bad overflow", h: header("X-Daily-Limit", "4294967296", "X-Daily-Used", "1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, quota(tt.h, testNow())); diff != "" {
				t.Errorf("quota (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want time.Duration // -1 for none
	}{
		{"", -1},
		{"soon", -1},
		{"-1", -1},
		{"+5", -1},
		{"1.5", -1},
		{"Tue, 24 Feb 2026 23:14:59 GMT", -1},
		{"0", 0},
		{" 90 ", 90 * time.Second},
		{"86400", 24 * time.Hour},
		{"86401", 24 * time.Hour},
		{"99999999999999999999", 24 * time.Hour},
		{"Tue, 24 Feb 2026 23:15:00 GMT", 0},
		{"Tue, 24 Feb 2026 23:16:00 GMT", time.Minute},
		{"Tuesday, 24-Feb-26 23:16:00 GMT", time.Minute},
		{"Fri, 31 Dec 9999 23:59:59 GMT", 24 * time.Hour},
	}
	for _, tt := range tests {
		got, ok := retryAfter(tt.in, testNow())
		if !ok {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestUntilMidnight(t *testing.T) {
	t.Parallel()
	east := time.FixedZone("east", 5*3600)
	for _, tt := range []struct {
		now  time.Time
		want time.Duration
	}{
		{testNow(), 45 * time.Minute},
		{testNow().In(east), 45 * time.Minute},
		{time.Date(2026, 2, 24, 0, 0, 0, 0, time.UTC), 24 * time.Hour},
		{time.Date(2026, 2, 24, 23, 59, 59, 999999999, time.UTC), 1},
	} {
		if got := untilMidnight(tt.now); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.now, got, tt.want)
		}
	}
}

func TestResetsAt(t *testing.T) {
	t.Parallel()
	now, midnight := testNow(), testNow().Add(45*time.Minute)
	for _, tt := range []struct{ reset, want time.Time }{
		{now.Add(time.Hour), now.Add(time.Hour)},
		{now.Add(-time.Second), midnight},
		{now, midnight},
		{time.Time{}, midnight},
	} {
		if got := (Quota{Reset: tt.reset}).ResetsAt(now); !got.Equal(tt.want) {
			t.Errorf("reset %s: got %s, want %s", tt.reset, got, tt.want)
		}
	}
}

func TestLatestQuotaAlwaysHasAReset(t *testing.T) {
	t.Parallel()
	midnight := testNow().Add(45 * time.Minute)
	for _, tt := range []struct {
		name        string
		reset, want time.Time
	}{
		{"OK in the answer", testNow().Add(time.Hour), testNow().Add(time.Hour)},
		{"OK not in the answer", time.Time{}, midnight},
		{"OK passed since", testNow().Add(-time.Second), testNow().Add(-time.Second)},
	} {
		var l LatestQuota
		if got := l.Load(); got.Known {
			t.Errorf("%s: known before it was stored: %+v", tt.name, got)
		}
		l.Store(Quota{Known: true, Limit: 24, Remaining: 3, Reset: tt.reset}, testNow())
		l.Store(Quota{}, testNow())
		if diff := cmp.Diff(Quota{Known: true, Limit: 24, Remaining: 3, Reset: tt.want}, l.Load()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
