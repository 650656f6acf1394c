package sikkerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// callTimeout ends a call whose answer is small, from the first packet to the last byte.
	callTimeout = 2 * time.Minute
	// errorTimeout ends the reading of an error's text, which is a courtesy.
	errorTimeout = 5 * time.Second
	// maxErrorBody is how much of an error's body is looked at, in bytes.
	maxErrorBody = 16 << 10
	// maxAnswer is the largest answer of the small calls, in bytes.
	maxAnswer = 4 << 20
)

// request is one question.
type request struct {
	method, path string // the path may be followed by a query
	body         io.Reader
	limit        int64 // of the answer's body, in bytes
	anySuccess   bool  // every 2xx is read, not 200 alone: the answer's content decides
}

// succeeds reports whether an answer of that status is read for its content.
func (r request) succeeds(status int) bool {
	return status == http.StatusOK || r.anySuccess && status > 200 && status < 300
}

// endpoint names the question in errors, without its query.
func (r request) endpoint() string {
	path, _, _ := strings.Cut(r.path, "?")
	return r.method + " " + path
}

// answer is a success.
type answer struct {
	body        *body
	quota       Quota
	contentType string
	measured    bool // a body that was cut short, by whomever, cannot be read to its end without an error
}

// do asks. The answer's body is to be closed. The request lives as long as it, bounded by ctx.
func (c *Client) do(ctx context.Context, r request) (*answer, error) {
	reqCtx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(reqCtx, r.method, c.base+r.path, r.body)
	if err != nil {
		cancel()
		return nil, c.clean(fmt.Errorf("%s: make request: %w", r.endpoint(), err))
	}
	req.Header.Set("Authorization", "Bearer "+c.key())
	req.Header.Set("User-Agent", c.userAgent)
	// Asked for by name, the library leaves decompressing to this package, whatever the transport's settings.
	req.Header.Set("Accept-Encoding", "gzip")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // newBody takes it over, and its Close closes it
	if err != nil {
		cancel()
		return nil, c.noAnswer(ctx, r, err)
	}
	b, err := newBody(ctx, resp, r.endpoint(), r.limit, cancel)
	if !r.succeeds(resp.StatusCode) {
		defer func() { _ = b.Close() }() // whatever was left in it is of no use
		timer := time.AfterFunc(errorTimeout, cancel)
		defer timer.Stop()
		return nil, c.refusal(resp, b, r)
	}
	if err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("%s: %w", r.endpoint(), err)
	}
	return &answer{
		body: b, quota: quota(resp.Header, c.now()), contentType: resp.Header.Get("Content-Type"),
		measured: resp.ContentLength >= 0 || resp.Header.Get("Content-Encoding") != "", // which can be gzip alone, with a checksum
	}, nil
}

// noAnswer classifies the error of a request that got none.
func (c *Client) noAnswer(ctx context.Context, r request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", r.endpoint(), ctx.Err())
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the rest of it repeats method and URL
	}
	return &TemporaryError{Endpoint: r.endpoint(), Err: c.clean(err)}
}

// refusal makes the error of an answer that is no success. An answer that is not the API's own
// proves nothing: neither that the key is refused nor that a quota is spent.
func (c *Client) refusal(resp *http.Response, b io.Reader, r request) error {
	now := c.now()
	wait, told := retryAfterOf(resp.Header, now)
	message, own := c.message(b)
	api := &APIError{StatusCode: resp.StatusCode, Message: message, Endpoint: r.endpoint(), Foreign: !own}
	q := quota(resp.Header, now)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests && spent(q, told, isPage(resp.Header)):
		if !told {
			wait = untilRenewed(q, resp.Header, now)
		}
		return &QuotaError{
			Quota: q, RetryAfter: wait, Reset: now.Add(wait).UTC(), Message: api.Message, Endpoint: api.Endpoint,
		}
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests, api.refusesKey() && api.Foreign:
		return &TemporaryError{Endpoint: api.Endpoint, RetryAfter: wait, Err: api}
	case isRedirect(resp.StatusCode):
		api.Message = c.text("to "+resp.Header.Get("Location"), maxMessage) // says more than the body does
	}
	return api
}

// spent reports whether a 429 means that the daily quota is spent. With quota left it is a limit of
// requests at a time, of the API or of a proxy before it; such a limit ends long before the day
// does. An answer that tells neither the quota nor a wait may be such a limit.
func spent(q Quota, waitTold, page bool) bool {
	if q.Known {
		return q.Remaining == 0
	}
	return waitTold && !page
}

// isPage reports whether an answer is a web page, which the API never sends.
func isPage(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "text/html", "application/xhtml+xml":
		return true
	default:
		return false
	}
}

// message returns the text of an error and whether it is the API's own, which is JSON with an error
// in it. Of any other body it returns the beginning, as far as that can be read.
func (c *Client) message(r io.Reader) (text string, own bool) {
	raw, _ := io.ReadAll(io.LimitReader(r, maxErrorBody))
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &said) == nil && said.Error != "" {
		return c.text(said.Error, maxMessage), true
	}
	return c.text(string(raw), maxMessage), false
}

// call asks for a JSON answer and hands its bytes to decode.
func (c *Client) call(ctx context.Context, r request, decode func(raw []byte, q Quota) error) error {
	a, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = a.body.Close() }() // it was read to its end, or the error is told
	raw, err := io.ReadAll(a.body)
	if err != nil {
		return err
	}
	if err := decode(raw, a.quota); err != nil {
		return c.clean(fmt.Errorf("%s: %w: %w", r.endpoint(), ErrMalformed, err))
	}
	return nil
}

// smallCall is call for what must not take long. Its own limit is a TemporaryError, the caller's context is not.
func (c *Client) smallCall(ctx context.Context, r request, decode func(raw []byte, q Quota) error) error {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r.limit = maxAnswer
	err := c.call(limited, r, decode)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		if _, ok := errors.AsType[*TemporaryError](err); !ok {
			return &TemporaryError{Endpoint: r.endpoint(), Err: fmt.Errorf("wait %s: %w", callTimeout, context.DeadlineExceeded)}
		}
	}
	return err
}
