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
	// ErrUnauthorized means that the API refuses the key: 401, missing or invalid; 403, disabled or
	// expired. The API says so in JSON of its own; the same status from a proxy, CDN or portal
	// proves nothing about the key.
	ErrUnauthorized = errors.New("the API refuses the key")
	// ErrRedirect means that the API answered with a redirect. None is followed, so that the key stays with its host.
	ErrRedirect = errors.New("the API answered with a redirect, and none is followed")
	// ErrDecompress means that a compressed body is corrupt.
	ErrDecompress = errors.New("decompress body")
	// ErrMalformed means that the answer has a status of success and another content than was
	// agreed.
	ErrMalformed = errors.New("malformed answer")
	// ErrBatchTooLarge means that a bulk report has more than MaxReports rows or MaxReportBytes bytes: send it in parts.
	ErrBatchTooLarge = errors.New("bulk report is too large")
)

const (
	// maxMessage is how much of the API's text a field keeps, in characters.
	maxMessage = 200
	// maxErrorText is how long the text of an error may be that a library made from the API's answer, in bytes.
	maxErrorText = 400
)

// APIError is an answer that is not 200 and means neither a spent quota nor a passing trouble, or the cause of a
// *TemporaryError. errors.Is tells ErrUnauthorized and ErrRedirect.
type APIError struct {
	StatusCode int
	Message    string // what the API said: from outside, at most 200 characters, all of them printable; may be empty
	Endpoint   string // method and path, like "GET /v1/key/status"
	Foreign    bool   // the body is not the API's own, {"error": "text"}: a proxy, CDN or portal may have answered
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
		s += ": the answer is not the API's own, so a proxy, CDN or portal before it may refuse the request"
	case e.StatusCode == http.StatusOK:
		s += ": the answer is no list, so a proxy, CDN or portal before the API may have given it"
	}
	return s
}

// Unwrap is ErrUnauthorized, ErrRedirect or nil.
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

// refusesKey reports whether the status is one by which the API refuses a key.
func (e *APIError) refusesKey() bool {
	return e.StatusCode == http.StatusUnauthorized || e.StatusCode == http.StatusForbidden
}

// isRedirect reports whether a status sends the client elsewhere (RFC 9110, 15.4). The others of
// 300 to 399 do not: 304 answers a conditional request, and none is made.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	default:
		return false
	}
}

// QuotaError is a 429 by which the endpoint's daily quota is spent.
type QuotaError struct {
	Quota      Quota
	RetryAfter time.Duration // 0–24 h; until the quota resets, at midnight UTC, when the API did not say
	Reset      time.Time     // when RetryAfter is over, UTC
	Message    string        // as APIError.Message
	Endpoint   string        // as APIError.Endpoint
}

func (e *QuotaError) Error() string {
	s := e.Endpoint + ": the daily quota"
	if e.Quota.Known {
		s += fmt.Sprintf(" of %d", e.Quota.Limit)
	}
	s += " is spent until " + e.Reset.Format(time.RFC3339)
	if e.Message != "" {
		s += fmt.Sprintf(" %q", e.Message)
	}
	return s
}

// TemporaryError is what is worth another try: no connection, no answer in time, or a body cut
// short (errors.Is tells io.ErrUnexpectedEOF). errors.As finds the *APIError of an answer: a 5xx; a
// 401 or 403 that is not the API's own; a 429 although the quota is not spent, or that tells neither
// the quota nor a wait; a page or JSON with status 200 in place of a list.
type TemporaryError struct {
	Endpoint   string        // as APIError.Endpoint
	RetryAfter time.Duration // 0–24 h, what the answer asked for; 0 when nothing was said
	Err        error
}

func (e *TemporaryError) Error() string {
	if api, ok := errors.AsType[*APIError](e.Err); ok {
		return api.Error() // it names the endpoint
	}
	return e.Endpoint + ": " + e.Err.Error()
}

// Unwrap is the cause.
func (e *TemporaryError) Unwrap() error { return e.Err }

// TooLargeError is a body that is larger than what is taken.
type TooLargeError struct {
	Limit int64 // bytes, decompressed
}

func (e *TooLargeError) Error() string { return fmt.Sprintf("body has more than %d bytes", e.Limit) }

// cleanedError has another text than the error it wraps.
type cleanedError struct {
	text string
	err  error
}

func (e *cleanedError) Error() string { return e.text }
func (e *cleanedError) Unwrap() error { return e.err }

// clean takes the key and overlong text out of an error that another library made. The key gets into one when, say, a
// transport of the caller's dumps the request; the text is long when a library repeats the value it cannot decode.
func (c *Client) clean(err error) error {
	text := err.Error()
	if len(text) <= maxErrorText && !strings.Contains(text, c.key()) {
		return err
	}
	return &cleanedError{text: c.text(text, maxErrorText), err: err}
}

// text makes a text from outside fit for a field: printable, without the key, at most limit characters. The key is looked
// for after the unprintable is gone, which can form it, and before the cut, which can leave a part of it.
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
