package apisim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// kind returns the name of an error that a caller distinguishes.
func kind(err error) string {
	_, temporary := errors.AsType[*sikkerapi.TemporaryError](err)
	_, quota := errors.AsType[*sikkerapi.QuotaError](err)
	_, large := errors.AsType[*sikkerapi.TooLargeError](err)
	api, isAPI := errors.AsType[*sikkerapi.APIError](err)
	switch {
	case err == nil:
		return "fine"
	case quota:
		return "quota"
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		return "unauthorized"
	case temporary && errors.Is(err, io.ErrUnexpectedEOF):
		return "cut short"
	case temporary && isAPI:
		return fmt.Sprintf("temporary %d", api.StatusCode)
	case temporary:
		return "temporary"
	case large:
		return "too large"
	case errors.Is(err, sikkerapi.ErrDecompress):
		return "corrupt"
	case errors.Is(err, sikkerapi.ErrMalformed):
		return "malformed"
	case errors.Is(err, sikkerapi.ErrRedirect):
		return "redirect"
	case isAPI:
		return fmt.Sprintf("refused %d", api.StatusCode)
	default:
		return err.Error()
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name             string
		fault            string
		text, json, stat string // errors of a blacklist in plain text, of one in JSON, and of the status
	}{
		{"OK delay", `{"delay": "1ms"}`, "fine", "fine", "fine"},
		{"OK times", `{"status": 503, "times": 1}`, "temporary 503", "fine", "fine"},
		{"OK path", `{"path": "/v1/key/blacklist", "status": 503}`, "temporary 503", "temporary 503", "fine"},
		{
			"OK parent of the path", `{"path": "/v1/key", "status": 503}`, "temporary 503", "temporary 503",
			"temporary 503",
		},
		{"OK garbage", `{"body": "garbage"}`, "fine", "malformed", "malformed"},
		{"OK html", `{"body": "html"}`, "temporary 200", "malformed", "malformed"},
		{"OK empty", `{"body": "empty"}`, "fine", "malformed", "malformed"},
		{"bad request", `{"status": 400}`, "refused 400", "refused 400", "refused 400"},
		{"bad key", `{"status": 401}`, "unauthorized", "unauthorized", "unauthorized"},
		{"bad key, page", `{"status": 403, "body": "html"}`, "temporary 403", "temporary 403", "temporary 403"},
		{"bad redirect", `{"status": 302}`, "redirect", "redirect", "redirect"},
		{"bad quota", `{"status": 429, "retryAfter": 60}`, "quota", "quota", "quota"},
		{"bad server", `{"status": 500, "body": "gzip-garbage"}`, "temporary 500", "temporary 500", "temporary 500"},
		{"bad gzip", `{"body": "gzip-garbage"}`, "corrupt", "corrupt", "corrupt"},
		{"bad end", `{"truncate": 15}`, "cut short", "cut short", "cut short"},
		{"bad size", `{"body": "huge"}`, "too large", "too large", "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, apisim.Options{})
			if status, body := w.ask(t, "POST", "/_sim/fault", tt.fault); status != 204 {
				t.Fatalf("set fault: %d %s", status, body)
			}
			_, text := w.pull(t.Context(), sikkerapi.BlacklistQuery{})
			_, long := w.client.BlacklistJSON(t.Context(), sikkerapi.BlacklistQuery{})
			_, stat := w.client.Status(t.Context())
			want, got := []string{tt.text, tt.json, tt.stat}, []string{kind(text), kind(long), kind(stat)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s(%v)", diff, errors.Join(text, long, stat))
			}
			if status, body := w.ask(t, "DELETE", "/_sim/fault", ""); status != 204 {
				t.Fatalf("clear: %d %s", status, body)
			}
			if _, err := w.pull(t.Context(), sikkerapi.BlacklistQuery{}); err != nil {
				t.Errorf("after the fault: %v", err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{})
	if err := w.sim.SetFault(apisim.Fault{Status: 503, RetryAfter: 5}); err != nil {
		t.Fatal(err)
	}
	_, err := w.client.Status(t.Context())
	if temporary, ok := errors.AsType[*sikkerapi.TemporaryError](err); !ok || temporary.RetryAfter != 5*time.Second {
		t.Errorf("503: %v", err)
	}
	// The later fault replaces the earlier one.
	if err := w.sim.SetFault(apisim.Fault{Status: 429, RetryAfter: 60}); err != nil {
		t.Fatal(err)
	}
	_, err = w.client.Status(t.Context())
	if quota, ok := errors.AsType[*sikkerapi.QuotaError](err); !ok || quota.RetryAfter != time.Minute {
		t.Errorf("429: %v", err)
	}
}

// TestHang ends each of the two waits from both sides: the client leaves, or the fault is cleared.
func TestHang(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]apisim.Fault{
		"before the answer": {Hang: true},
		"within the body":   {Hang: true, Truncate: 15},
		"delay":             {Delay: apisim.Duration(time.Hour), Status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, apisim.Options{})
			if err := w.sim.SetFault(f); err != nil {
				t.Fatal(err)
			}
			doneC := make(chan error)
			pull := func(ctx context.Context) {
				_, err := w.pull(ctx, sikkerapi.BlacklistQuery{})
				doneC <- err
			}
			ctx, cancel := context.WithCancel(t.Context())
			go pull(ctx)
			<-w.askedC
			cancel()
			if err := <-doneC; !errors.Is(err, context.Canceled) {
				t.Errorf("the client leaves: %v", err)
			}
			go pull(t.Context())
			<-w.askedC
			w.sim.ClearFaults()
			// The request ends, whether the fault was cleared before or after it met the request.
			err := <-doneC
			if _, ok := errors.AsType[*sikkerapi.TemporaryError](err); err != nil && !ok {
				t.Errorf("the fault is cleared: %v", err)
			}
		})
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	w := start(t, apisim.Options{})
	for _, bad := range []string{
		``, `{"status": "503"}`, `{"stauts": 503}`, `{"status": 99}`, `{"delay": "2"}`, `{"truncate": -1}`,
		`{"body": "other"}`,
		`{"path": "/healthz"}`, `{"body": "huge", "truncate": 5}`,
	} {
		if status, body := w.ask(t, "POST", "/_sim/fault", bad); status != 400 {
			t.Errorf("fault %s: %d %s", bad, status, body)
		}
	}
	if status, _ := w.ask(t, "GET", "/_sim/other", ""); status != 404 {
		t.Errorf("no such control: %d", status)
	}
	if err := w.sim.SetFault(apisim.Fault{Status: 503, Times: 1}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.client.Status(t.Context())
	if _, err := w.pull(t.Context(), sikkerapi.BlacklistQuery{Limit: 7}); err != nil {
		t.Fatal(err)
	}
	_, body := w.ask(t, "GET", "/_sim/requests", "")
	var got []apisim.Request
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := []apisim.Request{
		{Method: "GET", Path: "/v1/key/status", Status: 503, Time: w.now},
		{Method: "GET", Path: "/v1/key/blacklist", Query: "limit=7&plaintext=true", Status: 200, Time: w.now},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if _, body := w.ask(t, "GET", "/_sim/reports", ""); body != "[]" {
		t.Errorf("reports: %s", body)
	}
}
