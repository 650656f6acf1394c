package sikkerapi

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

// body is the body of an answer, decompressed and limited, with errors that a caller can
// distinguish:
//
//	network → wire (classifies errors) → limit → gunzip → limit → reader
//
// The compressed bytes are also limited, because a gzip file may have any number of empty members.
type body struct {
	io.Reader

	close func() error
}

func (b *body) Close() error { return b.close() }

// newBody takes over the body of an answer. It reads nothing. Closing the body also ends the
// request.
func newBody(
	ctx context.Context, resp *http.Response, endpoint string, limit int64, cancel context.CancelFunc,
) (*body, error) {
	b := &body{close: func() error {
		defer cancel()
		return resp.Body.Close()
	}}
	tooLarge := &TooLargeError{Limit: limit}
	b.Reader = untrusted.NewReader(&wire{r: resp.Body, ctx: ctx, endpoint: endpoint}, limit, tooLarge)
	switch enc := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		b.Reader = untrusted.NewReader(&gunzip{r: b.Reader, endpoint: endpoint}, limit, tooLarge)
	default:
		return b, fmt.Errorf("%w: encoding %.60q was not asked for", ErrDecompress, enc)
	}
	return b, nil
}

// wire reads from the network and classifies its errors: the context of the caller ended, or the
// body was cut short.
type wire struct {
	r        io.Reader
	ctx      context.Context // of the caller, for the request of this body
	endpoint string
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case w.ctx.Err() != nil:
		return n, fmt.Errorf("%s: read body: %w", w.endpoint, w.ctx.Err())
	case !errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
	}
	return n, &TemporaryError{Endpoint: w.endpoint, Err: fmt.Errorf("read body: %w", err)}
}

// gunzip decompresses. It begins with the first read, so that making it does not wait for the body.
type gunzip struct {
	r        io.Reader
	z        *gzip.Reader
	endpoint string
	err      error
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	n := 0
	if g.z == nil {
		g.z, g.err = gzip.NewReader(g.r)
		if errors.Is(g.err, io.EOF) { // an empty body is not a gzip file
			g.err = io.ErrUnexpectedEOF
		}
	}
	if g.err == nil {
		n, g.err = g.z.Read(p)
	}
	g.err = g.classify(g.err)
	return n, g.err
}

// classify distinguishes corrupt data from a body whose end is missing. It returns errors of the
// layers below unchanged.
func (g *gunzip) classify(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return fmt.Errorf("%w: %w", ErrDecompress, err)
	case err == io.ErrUnexpectedEOF: //nolint:errorlint // only the bare one is gzip's; the layer below wraps its own
		return &TemporaryError{Endpoint: g.endpoint, Err: fmt.Errorf("%w: %w", ErrDecompress, err)}
	default:
		return err
	}
}

// ErrUnended reports a list without a length whose last line does not end. It may have been cut
// short inside an address: by a connection that broke, if only its end marks the end of the list,
// or by a proxy that passed on the part it had.
var ErrUnended = errors.New("the answer has no length, and its last line does not end: it may be cut short")

// ended fails at the end of a text whose last line does not end.
type ended struct {
	io.ReadCloser

	endpoint string
	last     byte // last byte read
}

func (e *ended) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if n > 0 {
		e.last = p[n-1]
	}
	if errors.Is(err, io.EOF) && e.last != '\n' {
		err = &TemporaryError{
			Endpoint: e.endpoint, Err: fmt.Errorf("read body: %w: %w", io.ErrUnexpectedEOF, ErrUnended),
		}
	}
	return n, err
}

// list fails at the beginning of a text that is a web page or JSON. A proxy, CDN or portal sends
// such an answer with a status of success; it does not count as a download.
type list struct {
	io.ReadCloser

	client   *Client
	endpoint string
	begun    bool  // a byte that is not white space was read
	err      error // of the first read, for all later reads
}

func (l *list) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.ReadCloser.Read(p)
	if start := bytes.TrimLeft(p[:n], " \t\r\n\ufeff"); !l.begun && len(start) > 0 {
		l.begun = true
		if start[0] == '<' || start[0] == '{' {
			l.err = &TemporaryError{Endpoint: l.endpoint, Err: &APIError{
				StatusCode: http.StatusOK, Message: l.client.text(string(start), maxMessage), Endpoint: l.endpoint,
				Foreign: true,
			}}
			return 0, l.err
		}
	}
	return n, err
}
