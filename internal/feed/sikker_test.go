package feed_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestPull pulls from a server and checks the request and the answer. Closing the body ends the
// request.
func TestPull(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.RequestURI()
		_, _ = io.WriteString(w, "203.0.113.9\n")
	}))
	t.Cleanup(srv.Close)
	api, err := sikkerapi.New("sk_test_feed", sikkerapi.WithBaseURL(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	body, err := feed.NewSikker(feed.SikkerOptions{API: api, ScoreMin: 75}).Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(body)
	if err != nil || string(raw) != "203.0.113.9\n" {
		t.Errorf("body: %q, %v", raw, err)
	}
	if err := body.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if diff := cmp.Diff("/v1/key/blacklist?plaintext=true&scoreMinimum=75", <-asked); diff != "" {
		t.Errorf("question (-want +got):\n%s", diff)
	}
}

// TestPullAsksForJSONWhereTextHasNoEnd checks that a list that may be cut short is refused, and
// that the list of an API that never ends its last line is accepted at the next pull.
func TestPullAsksForJSONWhereTextHasNoEnd(t *testing.T) {
	t.Parallel()
	jsonBody := `{"meta": {"count": 2}, "data": [{"ip": "203.0.113.9"}, {"ip": "2001:db8::/64"}]}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("plaintext") == "" {
			_, _ = io.WriteString(w, jsonBody)
			return
		}
		_, _ = io.WriteString(w, "203.0.113.9\n")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "2001:db8::/64")
	}))
	t.Cleanup(srv.Close)
	api, err := sikkerapi.New("sk_test_feed", sikkerapi.WithBaseURL(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	f := feed.NewSikker(feed.SikkerOptions{API: api, ScoreMin: 75})
	pull := func() (string, error) {
		body, err := f.Fetch(t.Context())
		if err != nil {
			return "", err
		}
		raw, err := io.ReadAll(body)
		return string(raw), errors.Join(err, body.Close())
	}
	if raw, err := pull(); !errors.Is(err, sikkerapi.ErrUnended) {
		t.Errorf("text: got %q, %v", raw, err)
	}
	for range 2 {
		if raw, err := pull(); err != nil || raw != "203.0.113.9/32\n2001:db8::/64\n" {
			t.Errorf("JSON: got %q, %v", raw, err)
		}
	}
	jsonBody = strings.Replace(jsonBody, "2", "3", 1)
	if raw, err := pull(); !errors.Is(err, sikkerapi.ErrMalformed) {
		t.Errorf("JSON with a count of 3: got %q, %v", raw, err)
	}
	if raw, err := pull(); !errors.Is(err, sikkerapi.ErrUnended) {
		t.Errorf("text after JSON: got %q, %v", raw, err)
	}
}

// broken is an API that answers with an error.
type broken struct{ err error }

func (b broken) Blacklist(ctx context.Context, _ sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("a pull without a deadline may wait for ever")
	}
	return nil, b.err
}

func TestPullError(t *testing.T) {
	t.Parallel()
	want := &sikkerapi.QuotaError{}
	_, err := feed.NewSikker(feed.SikkerOptions{API: broken{want}}).Fetch(t.Context())
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestQuota checks that the quota is taken from a list and from a refusal, and stays if an answer
// has none.
func TestQuota(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
	}))
	t.Cleanup(srv.Close)
	api, err := sikkerapi.New("sk_test_feed", sikkerapi.WithBaseURL(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	f := feed.NewSikker(feed.SikkerOptions{API: api, ScoreMin: 75})
	pull := func() {
		if body, err := f.Fetch(t.Context()); err == nil {
			_ = body.Close()
		}
	}
	if pull(); f.Quota().Known {
		t.Errorf("known before the API said it: %+v", f.Quota())
	}
	header = http.Header{"X-Daily-Limit": {"24"}, "X-Daily-Used": {"3"}}
	if pull(); f.Quota().Remaining != 21 || f.Quota().Reset.IsZero() {
		t.Errorf("of a list: %+v", f.Quota())
	}
	header, status = http.Header{"X-Daily-Limit": {"24"}, "X-Daily-Used": {"24"}}, http.StatusTooManyRequests
	if pull(); !f.Quota().Known || f.Quota().Remaining != 0 {
		t.Errorf("of a refusal: %+v", f.Quota())
	}
	header, status = nil, http.StatusServiceUnavailable
	if pull(); !f.Quota().Known || f.Quota().Limit != 24 {
		t.Errorf("of an answer that says nothing: %+v", f.Quota())
	}
}
