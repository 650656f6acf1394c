package sikkerapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
)

var (
	// ErrUnauthorized reports that the API refuses the key: 401, missing or invalid; 403, disabled
	// or expired. The API says so in its own JSON; the same status from a proxy, CDN or portal
	// proves nothing about the key.
	ErrUnauthorized = errors.New("the API refuses the key")
	// ErrRedirect reports that the API answered with a redirect. Redirects are not followed, so
	// that the key is sent to no other host.
	ErrRedirect = errors.New("the API answered with a redirect, which is not followed")
	// ErrDecompress reports that a compressed body is corrupt.
	ErrDecompress = errors.New("decompress body")
	// ErrMalformed reports an answer with a status of success and unexpected content.
	ErrMalformed = errors.New("malformed answer")
	// ErrBatchTooLarge reports a bulk report of more than MaxReports rows or MaxReportBytes bytes:
	// send it in parts.
	ErrBatchTooLarge = errors.New("bulk report is too large")
)

const (
	// maxMessage is the number of characters of a text of the API that a field keeps.
	maxMessage = 200
	// maxErrorText is the longest text, in bytes, of an error that a library made from an answer of
	// the API.
	maxErrorText = 400
)

// APIError is an answer that is not 200, unless it is a *QuotaError. If another try may succeed, it
// is the cause of a *TemporaryError. errors.Is finds ErrUnauthorized and ErrRedirect in it.
type APIError struct {
	StatusCode int
	Message    string // text from outside, at most 200 characters, all printable; may be empty
	Endpoint   string // method and path, like "GET /v1/key/status"
	Foreign    bool   // the body is not that of the API, {"error": "text"}: a proxy, CDN or portal may have answered
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("%s: status %d", e.Endpoint, e.StatusCode)
	if text := http.StatusText(e.StatusCode); text != "" {
		s += " " + text
	}
	if e.Message != "" {
		s += fmt.Sprintf(" %q", e.Message)
	}
	switch err := e.Unwrap(); {
	case err != nil:
		s += ": " + err.Error()
	case e.refusesKey():
		s += ": the answer is not from the API itself: a proxy, CDN or portal may refuse the request"
	case e.StatusCode == http.StatusOK:
		s += ": the answer is not a list: a proxy, CDN or portal may have sent it"
	}
	return s
}

// Unwrap returns ErrUnauthorized, ErrRedirect or nil.
func (e *APIError) Unwrap() error {
	switch {
	case e.refusesKey() && !e.Foreign:
		return ErrUnauthorized
	case isRedirect(e.StatusCode):
		return ErrRedirect
	default:
		return nil
	}
}

// refusesKey reports whether the API uses the status to refuse a key.
func (e *APIError) refusesKey() bool {
	return e.StatusCode == http.StatusUnauthorized || e.StatusCode == http.StatusForbidden
}

// isRedirect reports whether a status sends the client to another address (RFC 9110, 15.4). The
// others of 300 to 399 do not: 304 answers a conditional request, and this package sends none.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	default:
		return false
	}
}

// QuotaError is a 429 that means that the daily quota of the endpoint is used up.
type QuotaError struct {
	Quota      Quota
	RetryAfter time.Duration // 0–24 h; if the API said nothing, until the quota resets at midnight UTC
	Reset      time.Time     // end of RetryAfter, UTC
	Message    string        // like APIError.Message
	Endpoint   string        // like APIError.Endpoint
}

func (e *QuotaError) Error() string {
	s := e.Endpoint + ": the daily quota"
	if e.Quota.Known {
		s += fmt.Sprintf(" of %d", e.Quota.Limit)
	}
	s += " is used up until " + e.Reset.Format(time.RFC3339)
	if e.Message != "" {
		s += fmt.Sprintf(" %q", e.Message)
	}
	return s
}

// TemporaryError is a failure that may pass: no connection, no answer in time, or a body cut short
// (errors.Is finds io.ErrUnexpectedEOF). errors.As finds the *APIError of an answer: a 5xx; a 401
// or 403 that is not from the API itself; a 429 with quota left, or with neither a quota nor a
// wait; a page or JSON with status 200 in place of a list.
type TemporaryError struct {
	Endpoint   string        // like APIError.Endpoint
	RetryAfter time.Duration // 0–24 h, from the answer; 0 if it has none
	Err        error
}

func (e *TemporaryError) Error() string {
	if api, ok := errors.AsType[*APIError](e.Err); ok {
		return api.Error() // contains the endpoint
	}
	return e.Endpoint + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *TemporaryError) Unwrap() error { return e.Err }

// TooLargeError is a body that is larger than the limit.
type TooLargeError struct {
	Limit int64 // bytes, decompressed
}

func (e *TooLargeError) Error() string { return fmt.Sprintf("body has more than %d bytes", e.Limit) }

// cleanedError has a different text from the error that it wraps.
type cleanedError struct {
	text string
	err  error
}

func (e *cleanedError) Error() string { return e.text }
func (e *cleanedError) Unwrap() error { return e.err }

// clean removes the key and overlong text from an error of another library. The key can be in it
// if, for example, a transport of the caller dumps the request. The text is long if a library
// repeats a value that it cannot decode.
func (c *Client) clean(err error) error {
	text := err.Error()
	if len(text) <= maxErrorText && !strings.Contains(text, c.key()) {
		return err
	}
	return &cleanedError{text: c.text(text, maxErrorText), err: err}
}

// text makes a text from outside fit for a field: printable, without the key, at most limit
// characters. It searches for the key after it removed unprintable characters, because that can
// form the key, and before it shortens the text, because that can leave a part of it.
func (c *Client) text(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		default:
			return -1
		}
	}, strings.ToValidUTF8(s, ""))
	s = strings.TrimSpace(strings.ReplaceAll(s, c.key(), "[redacted]"))
	n := 0
	for i := range s {
		if n == limit {
			return s[:i]
		}
		n++
	}
	return s
}

// IsUnreached reports whether a request failed without an answer of the API: there was no
// connection, or no answer in time.
func IsUnreached(err error) bool {
	_, temporary := errors.AsType[*TemporaryError](err)
	_, answered := errors.AsType[*APIError](err)
	return temporary && !answered
}

// RetryAfter returns the wait in the answer of a temporary failure, at most most. It is 0 if err is
// of another kind.
func RetryAfter(err error, most time.Duration) time.Duration {
	t, ok := errors.AsType[*TemporaryError](err)
	if !ok {
		return 0
	}
	return min(t.RetryAfter, most)
}
