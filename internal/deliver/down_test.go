package deliver

import (
	"errors"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestAPIDownForADay checks that the hits of a day without the API all arrive when the API is back,
// within the daily quota of 1,000.
func TestAPIDownForADay(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 0, 10, 0, 0, time.UTC)
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return now }
	sim, err := apisim.New(apisim.Options{List: list, Key: "sk_test_down", Tier: "free", Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	s := store.New(store.Options{Dir: t.TempDir()})
	t.Cleanup(func() { _ = s.Close() })
	client, err := sikkerapi.New("sk_test_down", sikkerapi.WithBaseURL(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	r := report.New(report.Options{Queue: queue{Store: s, allowlist: &allowlist{}}, API: client, Now: clock})

	if err := sim.SetFault(apisim.Fault{Path: "/v1/key/bulk-report", Status: 503}); err != nil {
		t.Fatal(err)
	}
	const sources = 2500
	for i := range 48 { // a window and a failed report every half hour
		var hits []store.Hit
		for n := range uint32(sources) {
			if n%48 == uint32(i) {
				hits = append(hits, store.Hit{
					Source: source(n), Protocol: 6, Port: 22, Service: "ssh", Packets: 1 + uint64(n),
				})
			}
		}
		if err := s.Add(t.Context(), store.Record{From: now, To: now, Hits: hits, Report: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Deliver(t.Context()); err == nil {
			t.Fatal("a report got through while the API is down")
		}
		now = now.Add(30 * time.Minute)
	}
	sim.ClearFaults()
	for days := 0; ; days++ {
		if days > 4 {
			t.Fatal("hits are missing after four days")
		}
		for err = nil; err == nil; {
			var out report.Outcome
			if out, err = r.Deliver(t.Context()); err == nil && out.Rows == 0 {
				break
			}
		}
		if err == nil {
			break
		}
		quota, ok := errors.AsType[*sikkerapi.QuotaError](err)
		if !ok {
			t.Fatal(err)
		}
		now = now.Add(quota.RetryAfter + time.Second)
	}
	arrived := map[netip.Addr]int{}
	byDay := map[int]int{}
	for _, row := range sim.Reports() {
		arrived[row.IP]++
		byDay[row.Time.UTC().YearDay()]++
	}
	if len(arrived) != sources {
		t.Errorf("%d of %d sources arrived", len(arrived), sources)
	}
	for addr, n := range arrived {
		if n != 1 {
			t.Errorf("%v was reported %d times", addr, n)
		}
	}
	for day, n := range byDay {
		if n > 1000 {
			t.Errorf("%d reports on day %d, the quota is 1000", n, day)
		}
	}
}
