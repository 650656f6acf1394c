package sikkerapi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// DefaultBaseURL is where the service lives.
const DefaultBaseURL = "https://api.sikkerapi.com"

const (
	defaultUserAgent = "sikkerapi-go"

	// The limits of one exchange up to the answer's header. A dial that takes longer than ten seconds meets a dead
	// network; the service may take longer to compile a large list.
	dialTimeout   = 10 * time.Second
	tlsTimeout    = 10 * time.Second
	headerTimeout = time.Minute
	idleTimeout   = 90 * time.Second
	// maxHeaderBytes is far above what the service sends, and far below the library's 10 MB.
	maxHeaderBytes = 256 << 10
)

// Client speaks to SikkerAPI with one key. Make it with New.
type Client struct {
	// key is behind a function because fmt and reflection print a field, and cannot print what a function returns.
	key       func() string
	base      string // without a slash at the end
	userAgent string
	http      *http.Client
	now       func() time.Time // tests replace it
}

// Option changes how a Client is made.
type Option func(*Client) error

// WithBaseURL sets where the API is; the default is DefaultBaseURL. The scheme is https, or http when the host is
// localhost or a loopback or private address, since the key is sent in the clear then. A path is allowed; user, password,
// query and fragment are not.
func WithBaseURL(base string) Option {
	return func(c *Client) error {
		checked, err := checkBaseURL(base)
		c.base = checked
		return err
	}
}

// WithHTTPClient sets the HTTP client; nil means the package's own. It is copied, and the copy follows no redirects. Its
// transport decides about proxies and the limits before an answer; its Timeout, if any, covers the whole body.
func WithHTTPClient(h *http.Client) Option {
	return func(c *Client) error {
		if h != nil {
			copied := *h
			c.http = &copied
		}
		return nil
	}
}

// WithUserAgent sets the User-Agent header: printable ASCII.
func WithUserAgent(agent string) Option {
	return func(c *Client) error {
		if agent == "" || strings.ContainsFunc(agent, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("user agent %.60q is empty or has characters other than printable ASCII", agent)
		}
		c.userAgent = agent
		return nil
	}
}

// New makes a client. Nothing is asked yet. It fails when the key is empty or has characters that no key has, or because
// of an option; the error never shows the key.
func New(key string, opts ...Option) (*Client, error) {
	if key == "" {
		return nil, errors.New("API key is empty")
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("API key has a space, a control or a non-ASCII character: copy it again")
	}
	c := &Client{
		key: func() string { return key }, base: DefaultBaseURL, userAgent: defaultUserAgent,
		http: &http.Client{Transport: newTransport()}, now: time.Now,
	}
	for _, o := range opts {
		if err := o(c); err != nil {
			return nil, c.clean(err)
		}
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  proxy,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    2,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}
}

// proxy is the environment's, but only for https: a proxy of plain http would read the key.
func proxy(r *http.Request) (*url.URL, error) {
	if r.URL.Scheme != "https" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// checkBaseURL returns the URL without a slash at the end. Its errors do not repeat the URL, which may hold a password.
func checkBaseURL(base string) (string, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("base URL is no URL like " + DefaultBaseURL)
	case u.User != nil:
		return "", errors.New("base URL has a user or password: leave out what precedes the @")
	case strings.ContainsAny(base, "?#"):
		return "", errors.New("base URL has a query or fragment: leave out what follows the ? or #")
	case u.Scheme == "http" && !isLocal(u.Hostname()):
		return "", errors.New("base URL is plain http, which would show the key, to a host that is neither localhost nor " +
			"a loopback or private address: use https")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func isLocal(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	a = a.Unmap()
	return err == nil && (a.IsLoopback() || a.IsPrivate())
}

// CloseIdleConnections closes the connections that wait for another request.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// String tells where the client asks, not with which key.
func (c Client) String() string { return fmt.Sprintf("sikkerapi.Client(%s)", c.base) }

// GoString is String.
func (c Client) GoString() string { return c.String() }

// Format writes String, whatever the verb.
func (c Client) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }
