package feed_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestRefusedListSurvivesARestart checks that a refused list and the reason are read after a
// restart. One of another request, a damaged one and a dropped one are not.
func TestRefusedListSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	refused, at := list("203.0.113.9/32", "198.51.100.0/24"), time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	f := saved(t, dir)
	if _, err := f.Refused(nil); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("before: got %v, want %v", err, feed.ErrNoCopy)
	}
	if err := f.DropRefused(); err != nil {
		t.Errorf("drop before: %v", err)
	}
	want := feed.Refused{
		Guard: "growth", Reason: "it holds \"\u00e9\n# sha256: 00\"", Grown: 2,
		Copy: feed.Copy{
			Fetched: at, Identity: identity(), Entries: 2,
		},
	}
	if err := f.SaveRefused(refused, at, want); err != nil {
		t.Fatal(err)
	}
	var body string
	got, err := saved(t, dir).Refused(keep(&body))
	if err != nil || body != "198.51.100.0/24\n203.0.113.9\n" {
		t.Fatalf("body %q, %v", body, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused list (-want +got):\n%s", diff)
	}
	other := savedOf(dir, feed.SikkerOptions{URL: "https://a.example", Key: "sk_test_feed", ScoreMin: 51})
	if _, err := other.Refused(nil); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("of another request: got %v, want %v", err, feed.ErrNoCopy)
	}
	if err := f.DropRefused(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Refused(nil); !errors.Is(err, feed.ErrNoCopy) {
		t.Errorf("dropped: got %v, want %v", err, feed.ErrNoCopy)
	}

	if err := f.SaveRefused(refused, at, want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blacklist.refused.txt")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		strings.Replace(string(raw), "203.0.113.9", "203.0.113.8", 1),
		strings.Replace(string(raw), "grown: 2", "grown: x", 1),
		strings.Replace(string(raw), "guard: \"", "guard: ", 1),
	} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		var damaged *feed.DamagedError
		if _, err := f.Refused(nil); !errors.As(err, &damaged) {
			t.Errorf("a damaged one: got %v, want a *DamagedError", err)
		}
	}
}

// TestLargestOfTheLastDays checks that the largest list counts for seven days, also over restarts,
// and not longer if a clock was wrong.
func TestLargestOfTheLastDays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, now := saved(t, dir), time.Now()
	check := func(want int) {
		t.Helper()
		if got := f.Largest(); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	check(0)
	f.RecordActive(5000, now)
	f.RecordActive(20, now.Add(time.Hour))
	check(5000)
	if err := f.Save(list("203.0.113.9/32"), now); err != nil {
		t.Fatal(err)
	}
	f = saved(t, dir)
	check(0)
	if _, err := f.Load(nil); err != nil {
		t.Fatal(err)
	}
	check(5000)
	f.RecordActive(20, now.Add(6*24*time.Hour))
	check(5000)
	f.RecordActive(30, now.Add(8*24*time.Hour))
	check(30)
	f.RecordActive(20, now) // the clock was ahead
	f.RecordActive(10, now.Add(7*24*time.Hour+time.Hour))
	check(10)

	other := savedOf(dir, feed.SikkerOptions{URL: "https://a.example", Key: "sk_test_other", ScoreMin: 50})
	if _, err := other.Load(nil); err != nil || other.Largest() != 0 {
		t.Errorf("another request measures against %d: %v", other.Largest(), err)
	}
}

// lister is an API with a quota.
type lister struct{ quota sikkerapi.Quota }

func (l lister) Blacklist(context.Context, sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error) {
	return &sikkerapi.BlacklistStream{ReadCloser: io.NopCloser(strings.NewReader("")), Quota: l.quota}, nil
}

// TestQuotaSurvivesARestart checks that an agent that starts has the quota of its predecessor until
// the quota resets.
func TestQuotaSurvivesARestart(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		reset time.Duration
		known bool
	}{"OK it is still spent": {time.Hour, true}, "OK it is there again": {-time.Hour, false}} {
		dir := t.TempDir()
		quota := sikkerapi.Quota{
			Known: true, Limit: 24, Remaining: 3, Reset: time.Now().Add(tt.reset).UTC().Truncate(time.Second),
		}
		api := feed.NewSikker(feed.SikkerOptions{API: lister{quota}})
		f := feed.NewSaved(feed.NewDir(dir, nil), "blacklist", api)
		body, err := api.Fetch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(body.Close(), f.Save(list("203.0.113.9/32"), time.Now())); err != nil {
			t.Fatal(err)
		}
		api = feed.NewSikker(feed.SikkerOptions{API: lister{quota}})
		f = feed.NewSaved(feed.NewDir(dir, nil), "blacklist", api)
		if _, err := f.Load(nil); err != nil {
			t.Fatal(err)
		}
		want := sikkerapi.Quota{}
		if tt.known {
			want = quota
		}
		if diff := cmp.Diff(want, api.Quota()); diff != "" {
			t.Errorf("%s: quota (-want +got):\n%s", name, diff)
		}
	}
}
