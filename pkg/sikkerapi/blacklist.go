package sikkerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// BlacklistMaxBytes is the longest blacklist that is taken, decompressed: 64 MiB, more than three times what the largest
// tier's 350,000 addresses take at their longest.
const BlacklistMaxBytes = 64 << 20

// BlacklistStream is a blacklist on its way: an address or a network in CIDR notation a line, by confidence, the highest
// first. Close it.
//
// Reading fails with *TooLargeError beyond BlacklistMaxBytes, with *TemporaryError and io.ErrUnexpectedEOF when the body
// is cut short, with ErrDecompress when it is corrupt, and with the context's error when the context of the request ends,
// which is the only thing that ends a stalled body. A body without a length must end its last line: else reading fails at
// its end with *TemporaryError and ErrUnended, after everything was handed out. A web page or JSON in place of the list,
// without a quota, fails at its first byte, with *TemporaryError and an *APIError that is Foreign.
type BlacklistStream struct {
	io.ReadCloser

	Quota       Quota
	ContentType string // the header's, unchecked: text/plain is what the API promises, text/html what a portal sends
}

// Blacklist asks for the blacklist as plain text and returns it unread. The context governs until the stream is closed:
// give it a deadline.
func (c *Client) Blacklist(ctx context.Context, q BlacklistQuery) (*BlacklistStream, error) {
	v, err := q.values()
	if err != nil {
		return nil, err
	}
	v.Set("plaintext", "true")
	a, err := c.do(ctx, blacklistRequest(v))
	if err != nil {
		return nil, err
	}
	endpoint := blacklistRequest(v).endpoint()
	body := io.ReadCloser(a.body)
	if !a.measured {
		body = &ended{ReadCloser: body, endpoint: endpoint, last: '\n'}
	}
	if !a.quota.Known { // which the API tells with each list
		body = &list{ReadCloser: body, client: c, endpoint: endpoint}
	}
	return &BlacklistStream{ReadCloser: body, Quota: a.quota, ContentType: a.contentType}, nil
}

// blacklistRequest asks for a blacklist.
func blacklistRequest(v url.Values) request {
	path := "/v1/key/blacklist"
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	return request{method: http.MethodGet, path: path, limit: BlacklistMaxBytes}
}

// BlacklistResponse is a blacklist with what is known about each address.
type BlacklistResponse struct {
	Meta    BlacklistMeta    `json:"meta"`
	Entries []BlacklistEntry `json:"data"`
	Quota   Quota            `json:"-"`
}

// BlacklistMeta tells how a blacklist was made.
type BlacklistMeta struct {
	GeneratedAt  time.Time `json:"generatedAt,omitzero"`
	ScoreMinimum int       `json:"scoreMinimum"`
	Limit        int       `json:"limit"`
	Count        int       `json:"count"`
}

// BlacklistEntry is one address, or network, of a blacklist. The texts in it come from outside.
type BlacklistEntry struct {
	Prefix          netip.Prefix `json:"prefix"` // a single address is the prefix that holds it alone
	ConfidenceLevel int          `json:"confidenceLevel"`
	LastSeen        time.Time    `json:"lastSeen,omitzero"`
	Sessions        int64        `json:"sessions"`
	Protocols       []string     `json:"protocols"`
	CountryCode     string       `json:"countryCode"`
	ASN             string       `json:"asn"` // like "AS64500"
	ASNOrg          string       `json:"asnOrg"`
}

// BlacklistJSON asks for the blacklist as JSON. It holds all of it in memory, up to BlacklistMaxBytes of JSON, and the
// context governs: give it a deadline. An entry that is no address, or another number of entries than the answer tells,
// makes the whole answer ErrMalformed.
func (c *Client) BlacklistJSON(ctx context.Context, q BlacklistQuery) (BlacklistResponse, error) {
	v, err := q.values()
	if err != nil {
		return BlacklistResponse{}, err
	}
	var res BlacklistResponse
	err = c.call(ctx, blacklistRequest(v), func(raw []byte, quota Quota) (err error) {
		res, err = decodeBlacklist(raw)
		res.Quota = quota
		if n := res.Meta.Count; err == nil && n > 0 && n != len(res.Entries) {
			err = fmt.Errorf("it says that it has %d entries and has %d", n, len(res.Entries))
		}
		return err
	})
	if err != nil {
		return BlacklistResponse{}, err
	}
	return res, nil
}

// decodeBlacklist reads the wire form, whose times are Unix milliseconds and whose addresses may be networks. The fields
// of the wire types hide those of the same JSON name in the types they embed.
func decodeBlacklist(raw []byte) (BlacklistResponse, error) {
	var wire struct {
		Meta *struct {
			BlacklistMeta

			GeneratedAt stamp `json:"generatedAt"`
		} `json:"meta"`
		Data []struct {
			BlacklistEntry

			IP       string `json:"ip"`
			LastSeen stamp  `json:"lastSeen"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &wire); err != nil {
		return BlacklistResponse{}, err
	}
	if wire.Meta == nil {
		return BlacklistResponse{}, errors.New("it has no meta: no blacklist")
	}
	res := BlacklistResponse{Meta: wire.Meta.BlacklistMeta, Entries: make([]BlacklistEntry, 0, len(wire.Data))}
	res.Meta.GeneratedAt = wire.Meta.GeneratedAt.Time
	for i, d := range wire.Data {
		p, ok := parsePrefix(d.IP)
		if !ok {
			return BlacklistResponse{}, fmt.Errorf("entry %d: %.60q is no address", i+1, d.IP)
		}
		e := d.BlacklistEntry
		e.Prefix, e.LastSeen = p, d.LastSeen.Time
		res.Entries = append(res.Entries, e)
	}
	return res, nil
}

// parsePrefix reads an address or a network.
func parsePrefix(s string) (netip.Prefix, bool) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p, err == nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}
