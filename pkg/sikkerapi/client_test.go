package sikkerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

const testKey = "sk_test_0123456789abcdef"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNow is three quarters of an hour before the quotas reset.
func testNow() time.Time { return time.Date(2026, 2, 24, 23, 15, 0, 0, time.UTC) }

// serve starts a server and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(testKey, WithBaseURL(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	c.now = testNow
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestNew(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, key, base string
		want            string // base URL; "" for an error
	}{
		{name: "OK https", key: testKey, base: "https://api.example.com", want: "https://api.example.com"},
		{
			name: "OK path and slash", key: testKey, base: "https://api.example.com:8443/sikker/",
			want: "https://api.example.com:8443/sikker",
		},
		{name: "OK localhost", key: testKey, base: "http://LocalHost:8080", want: "http://LocalHost:8080"},
		{name: "OK loopback", key: testKey, base: "http://127.9.9.9", want: "http://127.9.9.9"},
		{name: "OK loopback, IPv6", key: testKey, base: "http://[::1]:80", want: "http://[::1]:80"},
		{name: "OK private", key: testKey, base: "http://10.1.2.3", want: "http://10.1.2.3"},
		{name: "OK private, mapped", key: testKey, base: "http://[::ffff:10.1.2.3]", want: "http://[::ffff:10.1.2.3]"},
		{name: "OK private, IPv6", key: testKey, base: "http://[fd00::1]", want: "http://[fd00::1]"},
		{name: "bad key empty", base: "https://api.example.com"},
		{name: "bad key space", key: "sk_test_s3cret x", base: "https://api.example.com"},
		{name: "bad key newline", key: "sk_test_s3cret\n", base: "https://api.example.com"},
		{name: "bad key control", key: "sk_test_s3cret\x7f", base: "https://api.example.com"},
		{name: "bad key not ASCII", key: "sk_test_s3cret\u00a0", base: "https://api.example.com"},
		{name: "bad http to the Internet", key: testKey, base: "http://api.example.com"},
		{name: "bad http to a public address", key: testKey, base: "http://192.0.2.1"},
		{name: "bad http to a name that begins like localhost", key: testKey, base: "http://localhost.example.com"},
		{name: "bad http to no address", key: testKey, base: "http://0.0.0.0"},
		{name: "bad user", key: testKey, base: "https://s3cret@api.example.com"},
		{name: "bad password", key: testKey, base: "https://u:s3cret@api.example.com"},
		{name: "bad password with a hash", key: testKey, base: "https://u:s3#cret@api.example.com"},
		{name: "bad query", key: testKey, base: "https://api.example.com/?s3cret"},
		{name: "bad empty query", key: testKey, base: "https://api.example.com/?"},
		{name: "bad fragment", key: testKey, base: "https://api.example.com/#s3cret"},
		{name: "bad scheme", key: testKey, base: "ftp://api.example.com"},
		{name: "bad no scheme", key: testKey, base: "api.example.com"},
		{name: "bad no host", key: testKey, base: "https://:443"},
		{name: "bad empty", key: testKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := New(tt.key, WithBaseURL(tt.base))
			if (err == nil) != (tt.want != "") {
				t.Fatalf("New: %v, want base %q", err, tt.want)
			}
			if err == nil {
				if diff := cmp.Diff(tt.want, c.base); diff != "" {
					t.Errorf("base URL (-want +got):\n%s", diff)
				}
				return
			}
			for _, secret := range []string{testKey, "s3cret", "s3"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error shows %q: %v", secret, err)
				}
			}
		})
	}
}

func TestUserAgent(t *testing.T) {
	t.Parallel()
	for _, agent := range []string{"", "a\nb", "é"} {
		if _, err := New(testKey, WithUserAgent(agent)); err == nil {
			t.Errorf("user agent %q is accepted", agent)
		}
	}
	var got []string
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.UserAgent(), r.Header.Get("Authorization"), r.Header.Get("Accept-Encoding"))
	})
	if err := WithUserAgent("test/1")(c); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Status(t.Context()) // the answer is empty
	if diff := cmp.Diff([]string{"test/1", "Bearer " + testKey, "gzip"}, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestClientHidesKey(t *testing.T) {
	t.Parallel()
	c, err := New(testKey)
	if err != nil {
		t.Fatal(err)
	}
	type holder struct{ C *Client }
	raw, err := json.Marshal(map[string]any{"client": c})
	if err != nil {
		t.Fatal(err)
	}
	shown := c.String() + c.GoString() + string(raw)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		// The client in a holder is printed by reflection, which calls no method of it.
		shown += fmt.Sprintf(verb+verb+verb, c, *c, holder{c})
	}
	if strings.Contains(shown, testKey) || strings.Contains(shown, fmt.Sprintf("%x", testKey)) {
		t.Errorf("the key is shown: %s", shown)
	}
}

// roundTrip is a transport made from a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func withTransport(t *testing.T, f roundTrip) *Client {
	t.Helper()
	c, err := New(testKey, WithHTTPClient(&http.Client{Transport: f}))
	if err != nil {
		t.Fatal(err)
	}
	c.now = testNow
	return c
}

func TestErrorsHideKey(t *testing.T) {
	t.Parallel()
	dump := withTransport(t, func(r *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("send %v: %w", r.Header, io.ErrClosedPipe)
	})
	_, err := dump.Status(t.Context())
	if !errors.Is(err, io.ErrClosedPipe) || strings.Contains(err.Error(), testKey) {
		t.Errorf("transport that dumps: %v", err)
	}
	for name, text := range map[string]string{
		"JSON":         `{"error": "unknown key ` + testKey + `"}`,
		"text":         "unknown key " + testKey,
		"split":        "unknown key sk_test_\x000123456789abcdef",
		"at the limit": strings.Repeat("x", maxMessage-5) + testKey,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, text)
		})
		_, err := c.Status(t.Context())
		if err == nil || strings.Contains(err.Error(), "sk_te") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	api := func(status int, message string) *APIError {
		return &APIError{StatusCode: status, Message: message, Endpoint: "GET /v1/key/status"}
	}
	foreign := func(status int, message string) *APIError {
		return &APIError{StatusCode: status, Message: message, Endpoint: "GET /v1/key/status", Foreign: true}
	}
	passing := func(err *APIError, wait time.Duration) *TemporaryError {
		return &TemporaryError{Endpoint: "GET /v1/key/status", RetryAfter: wait, Err: err}
	}
	spent := func(q Quota, wait time.Duration) *QuotaError {
		return &QuotaError{
			Quota: q, RetryAfter: wait, Reset: testNow().Add(wait), Message: "spent", Endpoint: "GET /v1/key/status",
		}
	}
	tests := []struct {
		name   string
		status int
		header map[string]string
		body   string
		want   error
		is     error // found by errors.Is; nil to skip
		not    error // not found by errors.Is
	}{
		{name: "bad key", status: 401, body: `{"error": "no key"}`, want: api(401, "no key"), is: ErrUnauthorized},
		{
			name: "bad key disabled", status: 403, body: `{"error": "disabled"}`, want: api(403, "disabled"),
			is: ErrUnauthorized,
		},
		{
			name: "OK a challenge of a CDN does not refuse the key", status: 403, header: map[string]string{
				"Content-Type": "text/html",
			},
			body: "<title>Just a moment</title>", want: passing(foreign(403, "<title>Just a moment</title>"), 0),
		},
		{name: "OK a refusal without a body is no refused key", status: 403, want: passing(foreign(403, ""), 0)},
		{
			name: "OK a portal that asks to sign in is no refused key", status: 401, body: "<html>",
			want: passing(foreign(401, "<html>"), 0),
		},
		{
			name: "OK JSON of another program does not refuse the key", status: 403, body: `{"error": {"code": 1020}}`,
			want: passing(foreign(403, `{"error": {"code": 1020}}`), 0),
		},
		{
			name: "bad request", status: 400, body: "\x1b[31mred\u202e\r\n tape\xff",
			want: foreign(400, "[31mred   tape"),
		},
		{
			name: "bad not found, long", status: 404, body: strings.Repeat("é", 300),
			want: foreign(404, strings.Repeat("é", 200)),
		},
		{name: "bad success", status: 204, want: foreign(204, "")},
		{name: "bad part", status: 206, body: "{}", want: foreign(206, "{}")},
		{
			name: "bad redirect", status: 302, header: map[string]string{"Location": "https://example.com/"},
			want: foreign(302, "to https://example.com/"), is: ErrRedirect,
		},
		{name: "bad redirect for good", status: 308, want: foreign(308, "to"), is: ErrRedirect},
		{name: "bad not modified, which is no redirect", status: 304, want: foreign(304, ""), not: ErrRedirect},
		{name: "bad choices, which are no redirect", status: 300, want: foreign(300, ""), not: ErrRedirect},
		{
			name: "bad quota, seconds", status: 429, header: map[string]string{"Retry-After": "90"}, body: "spent",
			want: spent(Quota{}, 90*time.Second),
		},
		{
			name: "bad quota, date", status: 429, header: map[string]string{
				"Retry-After": "Wed, 25 Feb 2026 00:00:00 GMT",
			},
			body: "spent", want: spent(Quota{}, 45*time.Minute),
		},
		{
			name: "bad quota, date by the server's clock", status: 429,
			header: map[string]string{
				"Retry-After": "Wed, 04 Mar 2037 00:10:00 GMT", "Date": "Wed, 04 Mar 2037 00:00:00 GMT",
			},
			body: "spent", want: spent(Quota{}, 10*time.Minute),
		},
		{
			name: "bad quota, without a wait", status: 429, header: map[string]string{
				"X-Daily-Limit": "24", "X-Daily-Remaining": "0",
			},
			body: "spent", want: spent(Quota{Known: true, Limit: 24, Used: 24}, 45*time.Minute),
		},
		{
			name: "bad quota, until the reset in the answer", status: 429, body: "spent",
			header: map[string]string{
				"X-RateLimit-Limit": "24", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600",
			},
			want: spent(Quota{Known: true, Limit: 24, Used: 24, Reset: testNow().Add(10 * time.Minute)},
				10*time.Minute),
		},
		{
			name: "bad quota, until midnight by the server's clock", status: 429, body: "spent",
			header: map[string]string{
				"X-Daily-Limit": "24", "X-Daily-Remaining": "0", "Date": "Wed, 04 Mar 2037 23:50:00 GMT",
			},
			want: spent(Quota{Known: true, Limit: 24, Used: 24}, 10*time.Minute),
		},
		{
			name: "OK a limit without a quota does not last until midnight", status: 429,
			body: `{"error": "slow down"}`,
			want: passing(api(429, "slow down"), 0),
		},
		{
			name: "OK a negative wait is none", status: 429, header: map[string]string{"Retry-After": "-1"},
			body: `{"error": "spent"}`,
			want: passing(api(429, "spent"), 0),
		},
		{
			name: "bad quota, absurd", status: 429, header: map[string]string{"Retry-After": "99999999999999999999"},
			body: "spent",
			want: spent(Quota{}, 24*time.Hour),
		},
		{
			name: "OK a limit with quota left does not last until midnight", status: 429,
			header: map[string]string{"X-Daily-Limit": "24", "X-Daily-Remaining": "20"}, body: `{"error": "slow down"}`,
			want: passing(api(429, "slow down"), 0),
		},
		{
			name: "OK a limit with quota left lasts as long as it says", status: 429,
			header: map[string]string{"X-Daily-Limit": "24", "X-Daily-Remaining": "20", "Retry-After": "7"},
			body:   `{"error": "slow down"}`, want: passing(api(429, "slow down"), 7*time.Second),
		},
		{
			name: "OK a proxy's limit does not last until midnight", status: 429, body: "slow",
			want: passing(foreign(429, "slow"), 0),
		},
		{
			name: "OK a limit of a CDN is not a used-up quota", status: 429, body: "slow",
			header: map[string]string{"Content-Type": "text/html; charset=UTF-8", "Retry-After": "604800"},
			want:   passing(foreign(429, "slow"), 24*time.Hour),
		},
		{name: "bad server", status: 500, body: "<html>", want: passing(foreign(500, "<html>"), 0)},
		{
			name: "bad server, waits", status: 503, header: map[string]string{"Retry-After": "5"},
			body: `{"error": "maintenance"}`,
			want: passing(api(503, "maintenance"), 5*time.Second),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				asked++
				w.Header().Set("Date", testNow().Format(http.TimeFormat))
				for k, v := range tt.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := c.Status(t.Context())
			if diff := cmp.Diff(tt.want, err); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			if errors.Is(err, ErrUnauthorized) != errors.Is(tt.is, ErrUnauthorized) || tt.not != nil &&
				errors.Is(err, tt.not) {
				t.Errorf("%v is an error that it should not be", err)
			}
			if asked != 1 {
				t.Errorf("%d requests", asked)
			}
		})
	}
}

// TestRedirectKeepsKey checks that no redirect is followed, even if the client of the caller would
// follow it.
func TestRedirectKeepsKey(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s, with %q", r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	h := srv.Client()
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
	c, err := New(testKey, WithBaseURL(srv.URL), WithHTTPClient(h))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrRedirect) {
		t.Errorf("redirect: %v", err)
	}
	if h.CheckRedirect(nil, nil) != nil {
		t.Error("the caller's client was changed")
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	c, err := New(testKey, WithBaseURL(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Status(t.Context())
	if _, ok := errors.AsType[*TemporaryError](err); !ok {
		t.Errorf("no connection: %v", err)
	}
	if strings.Count(err.Error(), "/v1/key/status") != 1 {
		t.Errorf("the endpoint is named more than once: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Status(cancelled)
	if _, ok := errors.AsType[*TemporaryError](err); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestTimeouts has a server that never answers. The limit of the package is a temporary error, that
// of the caller is not.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	for _, stalledBody := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := withTransport(t, func(r *http.Request) (*http.Response, error) {
				if stalledBody {
					return &http.Response{StatusCode: 200, Body: stalled{r.Context()}, Header: http.Header{}}, nil
				}
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
			begin := time.Now()
			_, err := c.Status(t.Context())
			if _, ok := errors.AsType[*TemporaryError](err); !ok || time.Since(begin) != callTimeout {
				t.Errorf("own limit, after %s: %v", time.Since(begin), err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = c.Status(ctx)
			if _, ok := errors.AsType[*TemporaryError](err); ok || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("caller's limit: %v", err)
			}
		})
	}
}

// stalled is a body that never arrives.
type stalled struct{ ctx context.Context }

func (s stalled) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}
func (stalled) Close() error { return nil }

// TestStalledError has an error whose text never arrives. The error is still returned.
func TestStalledError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := withTransport(t, func(r *http.Request) (*http.Response, error) {
			body := io.MultiReader(bytes.NewReader([]byte("busy")), stalled{r.Context()})
			return &http.Response{StatusCode: 502, Body: io.NopCloser(body), Header: http.Header{}}, nil
		})
		begin := time.Now()
		_, err := c.Blacklist(t.Context(), BlacklistQuery{})
		api, ok := errors.AsType[*APIError](err)
		if !ok || api.StatusCode != 502 || api.Message != "busy" || time.Since(begin) != errorTimeout {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
	})
}
