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

// DefaultBaseURL is the address of the service.
const DefaultBaseURL = "https://api.sikkerapi.com"

const (
	defaultUserAgent = "sikkerapi-go"

	// The limits of one exchange up to the header of the answer. If a dial takes longer than ten
	// seconds, the network is dead. The service may need longer to compile a large list.
	dialTimeout   = 10 * time.Second
	tlsTimeout    = 10 * time.Second
	headerTimeout = time.Minute
	idleTimeout   = 90 * time.Second
	// maxHeaderBytes is far more than the service sends, and far less than the 10 MB of the
	// library.
	maxHeaderBytes = 256 << 10
)

// Client sends requests to SikkerAPI with one key. Make it with New.
type Client struct {
	// key is a function because fmt and reflection print a field, and cannot print the result of a
	// function.
	key       func() string
	base      string // without a slash at the end
	userAgent string
	http      *http.Client
	now       func() time.Time // tests replace it
}

// Option is a setting of a Client.
type Option func(*Client) error

// WithBaseURL sets the address of the API; the default is DefaultBaseURL. The scheme is https. It
// may be http if the host is localhost or a loopback or private address, because the key is then
// sent in the clear. A path is allowed; user, password, query and fragment are not.
func WithBaseURL(base string) Option {
	return func(c *Client) error {
		checked, err := checkBaseURL(base)
		c.base = checked
		return err
	}
}

// WithHTTPClient sets the HTTP client; nil means that of the package. It is copied, and the copy
// follows no redirects. Its transport sets proxies and the limits before an answer. Its Timeout, if
// any, covers the whole body.
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

// New returns a client. It sends nothing. It fails if the key is empty or has characters that no
// key has, or because of an option. The error never shows the key.
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

// proxy returns the proxy of the environment, but only for https: a proxy for plain http could read
// the key.
func proxy(r *http.Request) (*url.URL, error) {
	if r.URL.Scheme != "https" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// checkBaseURL returns the URL without a slash at the end. Its errors do not repeat the URL, which
// may contain a password.
func checkBaseURL(base string) (string, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("base URL is not a URL like " + DefaultBaseURL)
	case u.User != nil:
		return "", errors.New("base URL has a user or password: remove the part before the @")
	case strings.ContainsAny(base, "?#"):
		return "", errors.New("base URL has a query or fragment: remove the part from the ? or # on")
	case u.Scheme == "http" && !LocalHost(u.Hostname()):
		return "", errors.New(
			"base URL is plain http, which would show the key, to a host that is neither localhost nor " +
				"a loopback or private address: use https")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// LocalHost reports whether host is localhost, or a loopback or private address. A request in plain
// HTTP, which shows the key, may go to such a host alone.
func LocalHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	a = a.Unmap()
	return err == nil && (a.IsLoopback() || a.IsPrivate())
}

// CloseIdleConnections closes the connections that wait for another request.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// String returns the base URL of the client, without the key.
func (c Client) String() string { return fmt.Sprintf("sikkerapi.Client(%s)", c.base) }

// GoString returns the same as String.
func (c Client) GoString() string { return c.String() }

// Format writes the result of String, for every verb.
func (c Client) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }
