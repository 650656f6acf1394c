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
}

// endpoint names the question in errors, without its query.
func (r request) endpoint() string {
	path, _, _ := strings.Cut(r.path, "?")
	return r.method + " " + path
}

// answer is a 200.
type answer struct {
	body        *body
	quota       Quota
	contentType string
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
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = b.Close() }() // whatever was left in it is of no use
		timer := time.AfterFunc(errorTimeout, cancel)
		defer timer.Stop()
		return nil, c.refusal(resp, b, r)
	}
	if err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("%s: %w", r.endpoint(), err)
	}
	return &answer{body: b, quota: quota(resp.Header, c.now()), contentType: resp.Header.Get("Content-Type")}, nil
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

// refusal makes the error of an answer that is not 200.
func (c *Client) refusal(resp *http.Response, b io.Reader, r request) error {
	now := c.now()
	wait, told := retryAfter(resp.Header.Get("Retry-After"), now)
	api := &APIError{StatusCode: resp.StatusCode, Message: c.message(b), Endpoint: r.endpoint()}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		if !told {
			wait = untilMidnight(now)
		}
		return &QuotaError{
			Quota: quota(resp.Header, now), RetryAfter: wait, Reset: now.Add(wait).UTC(),
			Message: api.Message, Endpoint: api.Endpoint,
		}
	case resp.StatusCode >= 500:
		return &TemporaryError{Endpoint: api.Endpoint, RetryAfter: wait, Err: api}
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		api.Message = c.text("to "+resp.Header.Get("Location"), maxMessage) // says more than the body does
	}
	return api
}

// message reads what the API says about an error: the text of its JSON, or else the beginning of whatever it sent. A body
// that cannot be read says as much as was read.
func (c *Client) message(r io.Reader) string {
	raw, _ := io.ReadAll(io.LimitReader(r, maxErrorBody))
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &said) == nil && said.Error != "" {
		return c.text(said.Error, maxMessage)
	}
	return c.text(string(raw), maxMessage)
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
