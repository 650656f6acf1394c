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
	// callTimeout is the longest duration of a call with a small answer, from the first packet to
	// the last byte.
	callTimeout = 2 * time.Minute
	// errorTimeout is the longest wait for the text of an error, which is optional.
	errorTimeout = 5 * time.Second
	// maxErrorBody is the number of bytes read of the body of an error.
	maxErrorBody = 16 << 10
	// maxAnswer is the largest answer of small calls, in bytes.
	maxAnswer = 4 << 20
)

// request is one request.
type request struct {
	method, path string // path may include a query
	body         io.Reader
	limit        int64 // of the body of the answer, in bytes
	anySuccess   bool  // read every 2xx and not only 200: the content of the answer decides
}

// succeeds reports whether the content of an answer with that status is read.
func (r request) succeeds(status int) bool {
	return status == http.StatusOK || r.anySuccess && status > 200 && status < 300
}

// endpoint returns the method and the path, without the query, for errors.
func (r request) endpoint() string {
	path, _, _ := strings.Cut(r.path, "?")
	return r.method + " " + path
}

// answer is an answer of success.
type answer struct {
	body        *body
	quota       Quota
	contentType string
	measured    bool // if the body was cut short anywhere, reading it to the end fails
}

// do sends a request. The caller closes the body of the answer. Until then the request lives,
// bounded by ctx.
func (c *Client) do(ctx context.Context, r request) (*answer, error) {
	reqCtx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(reqCtx, r.method, c.base+r.path, r.body)
	if err != nil {
		cancel()
		return nil, c.clean(fmt.Errorf("%s: make request: %w", r.endpoint(), err))
	}
	req.Header.Set("Authorization", "Bearer "+c.key())
	req.Header.Set("User-Agent", c.userAgent)
	// If the header is set explicitly, the library leaves decompression to this package, for every
	// transport.
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
		defer func() { _ = b.Close() }() // the rest of it is not needed
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
		// gzip, the only encoding, has a checksum
		measured: resp.ContentLength >= 0 || resp.Header.Get("Content-Encoding") != "",
	}, nil
}

// noAnswer classifies the error of a request without an answer.
func (c *Client) noAnswer(ctx context.Context, r request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", r.endpoint(), ctx.Err())
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the rest of it repeats method and URL
	}
	return &TemporaryError{Endpoint: r.endpoint(), Err: c.clean(err)}
}

// refusal returns the error of an answer that is not a success. An answer that is not from the API
// itself proves nothing: neither that the key is refused nor that a quota is used up.
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
		api.Message = c.text("to "+resp.Header.Get("Location"), maxMessage) // more useful than the body
	}
	return api
}

// spent reports whether a 429 means that the daily quota is used up. If quota is left, it is a
// limit of requests at a time, of the API or of a proxy before it; such a limit ends long before
// the day does. An answer with neither a quota nor a wait may be such a limit.
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

// message returns the text of an error and whether it is from the API itself, which sends JSON with
// an error in it. Of any other body it returns the beginning, as far as it can be read.
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

// call sends a request and passes the bytes of the JSON answer to decode.
func (c *Client) call(ctx context.Context, r request, decode func(raw []byte, q Quota) error) error {
	a, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = a.body.Close() }() // it was read to its end, or the error is returned
	raw, err := io.ReadAll(a.body)
	if err != nil {
		return err
	}
	if err := decode(raw, a.quota); err != nil {
		return c.clean(fmt.Errorf("%s: %w: %w", r.endpoint(), ErrMalformed, err))
	}
	return nil
}

// smallCall is call for requests that must not take long. If callTimeout passes, the error is a
// TemporaryError. If the context of the caller ends, it is not.
func (c *Client) smallCall(ctx context.Context, r request, decode func(raw []byte, q Quota) error) error {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r.limit = maxAnswer
	err := c.call(limited, r, decode)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		if _, ok := errors.AsType[*TemporaryError](err); !ok {
			return &TemporaryError{
				Endpoint: r.endpoint(), Err: fmt.Errorf("wait %s: %w", callTimeout, context.DeadlineExceeded),
			}
		}
	}
	return err
}
