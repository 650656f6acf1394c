package apisim_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const testKey = "sk_test_0123456789abcdef"

const testList = `# documentation addresses, two of them with a score
203.0.113.9
198.51.100.0/24 40   # low
2001:db8::1 97
203.0.113.10 60
`

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a simulator and the official client.
type world struct {
	sim    *apisim.Sim
	client *sikkerapi.Client
	url    string
	list   string
	now    time.Time
	askedC chan string // paths of the first 100 requests, as they arrive
}

func start(t *testing.T, o apisim.Options) *world {
	t.Helper()
	w := &world{list: filepath.Join(t.TempDir(), "list.txt"), now: time.Date(2026, 2, 24, 23, 15, 0, 0, time.UTC)}
	w.askedC = make(chan string, 100)
	w.write(t, testList)
	o.List, o.Key, o.Now = w.list, testKey, func() time.Time { return w.now }
	var err error
	if w.sim, err = apisim.New(o); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case w.askedC <- r.URL.Path:
		default:
		}
		w.sim.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(w.sim.ClearFaults)
	w.url = srv.URL
	w.client = w.clientWith(t, testKey)
	return w
}

func (w *world) clientWith(t *testing.T, key string) *sikkerapi.Client {
	t.Helper()
	c, err := sikkerapi.New(key, sikkerapi.WithBaseURL(w.url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (w *world) write(t *testing.T, list string) {
	t.Helper()
	if err := os.WriteFile(w.list, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pull reads the whole blacklist.
func (w *world) pull(ctx context.Context, q sikkerapi.BlacklistQuery) (string, error) {
	s, err := w.client.Blacklist(ctx, q)
	if err != nil {
		return "", err
	}
	raw, err := io.ReadAll(s)
	return string(raw), errors.Join(err, s.Close())
}

// ask sends a request to a control endpoint, without a key.
func (w *world) ask(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

func TestBlacklist(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{Limit: 3})
	tests := []struct {
		name string
		q    sikkerapi.BlacklistQuery
		want string
	}{
		{name: "OK by default 50 and more", want: "203.0.113.9\n2001:db8::1\n203.0.113.10\n"},
		{
			name: "OK low score, at the tier's limit", q: sikkerapi.BlacklistQuery{ScoreMinimum: 1, Limit: 100},
			want: "203.0.113.9\n2001:db8::1\n203.0.113.10\n",
		},
		{name: "OK high score", q: sikkerapi.BlacklistQuery{ScoreMinimum: 98}, want: "203.0.113.9\n"},
		{name: "OK limit", q: sikkerapi.BlacklistQuery{Limit: 1}, want: "203.0.113.9\n"},
		{
			name: "OK IPv4", q: sikkerapi.BlacklistQuery{IPVersion: sikkerapi.IPv4, ScoreMinimum: 40},
			want: "203.0.113.9\n203.0.113.10\n198.51.100.0/24\n",
		},
		{name: "OK IPv6", q: sikkerapi.BlacklistQuery{IPVersion: sikkerapi.IPv6}, want: "2001:db8::1\n"},
		{name: "OK everything else", q: sikkerapi.BlacklistQuery{
			ScoreMinimum: 100, OnlyCountries: []string{"NL"}, ExceptCountries: []string{"US"}, OnlyASN: []uint32{1},
			ExceptASN: []uint32{2},
			Protocols: []string{"ssh"}, MinSeverity: sikkerapi.SeverityHigh, IgnoreWhitelist: true,
			IPVersion: sikkerapi.Mixed,
		}, want: "203.0.113.9\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := w.pull(t.Context(), tt.q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
		})
	}
}

func TestListIsReadAgain(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{})
	w.write(t, "nonsense\n192.0.2.1\n")
	got, err := w.pull(t.Context(), sikkerapi.BlacklistQuery{})
	if err != nil || got != "nonsense\n192.0.2.1\n" {
		t.Errorf("pull: %q, %v", got, err)
	}
	res, err := w.client.BlacklistJSON(t.Context(), sikkerapi.BlacklistQuery{ScoreMinimum: 75})
	if err != nil {
		t.Fatal(err)
	}
	meta := sikkerapi.BlacklistMeta{GeneratedAt: w.now, ScoreMinimum: 75, Limit: 5000, Count: 1}
	if diff := cmp.Diff(meta, res.Meta); diff != "" {
		t.Errorf("meta (-want +got):\n%s", diff)
	}
	if len(res.Entries) != 1 || res.Entries[0].Prefix != netip.MustParsePrefix("192.0.2.1/32") {
		t.Errorf("entries: %+v", res.Entries)
	}
	if diff := cmp.Diff(sikkerapi.Quota{Known: true, Limit: 24, Used: 2, Remaining: 22}, res.Quota); diff != "" {
		t.Errorf("quota (-want +got):\n%s", diff)
	}
	if err := os.Remove(w.list); err != nil {
		t.Fatal(err)
	}
	_, err = w.pull(t.Context(), sikkerapi.BlacklistQuery{})
	if _, ok := errors.AsType[*sikkerapi.TemporaryError](err); !ok {
		t.Errorf("without a list: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{})
	tests := []struct {
		name, method, path, key string
		want                    int
	}{
		{"bad no key", "GET", "/v1/key/status", "", 401},
		{"bad key", "GET", "/v1/key/blacklist", "sk_test_other", 401},
		{"bad method", "POST", "/v1/key/status", testKey, 405},
		{"bad path", "GET", "/v1/key/other", testKey, 404},
		{"bad address", "GET", "/v1/key/check/203.0.113", testKey, 400},
		{"bad score", "GET", "/v1/key/blacklist?scoreMinimum=0", testKey, 400},
		{"bad limit", "GET", "/v1/key/blacklist?limit=x", testKey, 400},
		{"bad version", "GET", "/v1/key/blacklist?ipVersion=5", testKey, 400},
		{"bad parameter", "GET", "/v1/key/blacklist?score=5", testKey, 400},
		{"bad parameter twice", "GET", "/v1/key/blacklist?limit=5&limit=6", testKey, 400},
		{"bad country", "GET", "/v1/key/blacklist?onlyCountries=NL,", testKey, 400},
		{"bad ASN", "GET", "/v1/key/blacklist?onlyAsn=64500", testKey, 400},
		{"bad content type", "POST", "/v1/key/bulk-report", testKey, 415},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil)
			if tt.key != "" {
				req.Header.Set("Authorization", "Bearer "+tt.key)
			}
			rec := httptest.NewRecorder()
			w.sim.ServeHTTP(rec, req)
			var said struct{ Error string }
			if err := json.Unmarshal(rec.Body.Bytes(), &said); err != nil || said.Error == "" || rec.Code != tt.want {
				t.Errorf("got %d %s, want %d", rec.Code, rec.Body, tt.want)
			}
		})
	}
	if _, err := w.clientWith(t, "sk_test_other").Status(t.Context()); !errors.Is(err, sikkerapi.ErrUnauthorized) {
		t.Errorf("status with another key: %v", err)
	}
}

func TestQuotasAreDaily(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{Pulls: 1})
	if _, err := w.pull(t.Context(), sikkerapi.BlacklistQuery{}); err != nil {
		t.Fatal(err)
	}
	_, err := w.pull(t.Context(), sikkerapi.BlacklistQuery{})
	quota, ok := errors.AsType[*sikkerapi.QuotaError](err)
	if !ok || quota.RetryAfter != 45*time.Minute || quota.Quota.Limit != 1 || quota.Quota.Remaining != 0 {
		t.Fatalf("second pull: %+v, %v", quota, err)
	}
	if _, err := w.client.Check(t.Context(), netip.MustParseAddr("203.0.113.9")); err != nil {
		t.Errorf("another endpoint: %v", err)
	}
	w.now = w.now.Add(quota.RetryAfter)
	if _, err := w.pull(t.Context(), sikkerapi.BlacklistQuery{}); err != nil {
		t.Errorf("the next day: %v", err)
	}
}

func TestCheckAndStatus(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{Tier: "basic"})
	for addr, score := range map[string]int{"203.0.113.9": 100, "198.51.100.7": 40, "2001:db8::1": 97, "192.0.2.1": 0} {
		res, err := w.client.Check(t.Context(), netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		if res.Found != (score > 0) || res.ConfidenceLevel != score || res.LastSeen.IsZero() == res.Found {
			t.Errorf("%s: %+v", addr, res)
		}
	}
	got, err := w.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := sikkerapi.Status{
		Tier: sikkerapi.Tier{ID: "tier_1", Name: "Basic"},
		Quotas: sikkerapi.Quotas{
			Lookups:   sikkerapi.Usage{Used: 4, Limit: 7000, Remaining: 6996},
			Reports:   sikkerapi.Usage{Limit: 7000, Remaining: 7000},
			Blacklist: sikkerapi.Usage{Limit: 24, Remaining: 24},
			TAXII:     sikkerapi.Usage{Limit: 1000, Remaining: 1000},
		},
		Alerts: sikkerapi.Alerts{IPAlerts: sikkerapi.AlertUsage{Limit: 5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestBulkReport(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{})
	listed := netip.MustParseAddr("203.0.113.9")
	var rows []sikkerapi.Report
	for c := sikkerapi.BruteForce; c <= sikkerapi.Other; c++ {
		rows = append(rows, sikkerapi.Report{IP: listed, Category: c, Protocol: "ssh", Comment: "x"})
	}
	rows[1].IP = netip.MustParseAddr("10.0.0.1")
	res, err := w.client.BulkReport(t.Context(), rows)
	if err != nil {
		t.Fatal(err)
	}
	want := sikkerapi.BulkReportResult{
		Total: 16, Accepted: 15, Rejected: 1, Errors: []*sikkerapi.RowError{
			{Row: 2, IP: "10.0.0.1", Reason: "private address"},
		},
		Quota: sikkerapi.Quota{Known: true, Limit: 1000, Used: 15, Remaining: 985},
	}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	var names, wanted []string
	for _, r := range w.sim.Reports() {
		names = append(names, r.Category)
	}
	for i, r := range rows {
		if i != 1 {
			wanted = append(wanted, r.Category.String())
		}
	}
	if diff := cmp.Diff(wanted, names); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}

	// The quota ends in the middle of a batch, and then before one.
	many := make([]sikkerapi.Report, 1000)
	for i := range many {
		many[i] = rows[0]
	}
	res, err = w.client.BulkReport(t.Context(), many)
	if err != nil || res.Accepted != 985 || res.Rejected != 15 || res.Errors[0].Row != 986 {
		t.Errorf("more than the quota: %+v, %v", res, err)
	}
	_, err = w.client.BulkReport(t.Context(), many)
	if _, ok := errors.AsType[*sikkerapi.QuotaError](err); !ok {
		t.Errorf("spent quota: %v", err)
	}
	if got := len(w.sim.Reports()); got != 1000 {
		t.Errorf("%d rows are stored", got)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]apisim.Options{
		"no key": {}, "tier": {Key: testKey, Tier: "gold"}, "limit": {Key: testKey, Limit: -1}, "pulls": {
			Key: testKey, Pulls: -1,
		},
	} {
		if _, err := apisim.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
