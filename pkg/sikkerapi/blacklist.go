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

// BlacklistMaxBytes is the largest blacklist that is accepted, decompressed: 64 MiB, more than
// three times the longest form of the 350,000 addresses of the largest tier.
const BlacklistMaxBytes = 64 << 20

// BlacklistStream is a blacklist during its download: an address or a network in CIDR notation per
// line, highest confidence first. The caller closes it.
//
// Reading fails with *TooLargeError beyond BlacklistMaxBytes. It fails with *TemporaryError and
// io.ErrUnexpectedEOF if the body is cut short, with ErrDecompress if it is corrupt, and with the
// error of the context if the context of the request ends. Only the context ends a body that
// stalls. If a body has no length, its last line must end: otherwise reading fails at its end,
// after all bytes were returned, with *TemporaryError and ErrUnended. If the answer is a web page
// or JSON in place of the list, and has no quota, reading fails at its first byte, with
// *TemporaryError and an *APIError that is Foreign.
type BlacklistStream struct {
	io.ReadCloser

	Quota       Quota
	ContentType string // from the header, unchecked: the API promises text/plain, a portal sends text/html
}

// Blacklist requests the blacklist as plain text and returns it unread. ctx applies until the
// stream is closed: give it a deadline.
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
	if !a.quota.Known { // the API sends it with each list
		body = &list{ReadCloser: body, client: c, endpoint: endpoint}
	}
	return &BlacklistStream{ReadCloser: body, Quota: a.quota, ContentType: a.contentType}, nil
}

// blacklistRequest returns the request for a blacklist.
func blacklistRequest(v url.Values) request {
	path := "/v1/key/blacklist"
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	return request{method: http.MethodGet, path: path, limit: BlacklistMaxBytes}
}

// BlacklistResponse is a blacklist with the information about each address.
type BlacklistResponse struct {
	Meta    BlacklistMeta    `json:"meta"`
	Entries []BlacklistEntry `json:"data"`
	Quota   Quota            `json:"-"`
}

// BlacklistMeta is the parameters of a blacklist.
type BlacklistMeta struct {
	GeneratedAt  time.Time `json:"generatedAt,omitzero"`
	ScoreMinimum int       `json:"scoreMinimum"`
	Limit        int       `json:"limit"`
	Count        int       `json:"count"`
}

// BlacklistEntry is one address or network of a blacklist. Its texts come from outside.
type BlacklistEntry struct {
	Prefix          netip.Prefix `json:"prefix"` // a single address is a prefix of full length
	ConfidenceLevel int          `json:"confidenceLevel"`
	LastSeen        time.Time    `json:"lastSeen,omitzero"`
	Sessions        int64        `json:"sessions"`
	Protocols       []string     `json:"protocols"`
	CountryCode     string       `json:"countryCode"`
	ASN             string       `json:"asn"` // like "AS64500"
	ASNOrg          string       `json:"asnOrg"`
}

// BlacklistJSON requests the blacklist as JSON. It holds all of it in memory, up to
// BlacklistMaxBytes of JSON. ctx applies to all of it: give it a deadline. If an entry is not an
// address, or the number of entries differs from the count in the answer, the whole answer is
// ErrMalformed.
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
			err = fmt.Errorf("its count is %d and it has %d entries", n, len(res.Entries))
		}
		return err
	})
	if err != nil {
		return BlacklistResponse{}, err
	}
	return res, nil
}

// decodeBlacklist decodes the wire form, whose times are Unix milliseconds and whose addresses may
// be networks. The fields of the wire types hide those with the same JSON name in the embedded
// types.
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
		return BlacklistResponse{}, errors.New("it has no meta")
	}
	res := BlacklistResponse{Meta: wire.Meta.BlacklistMeta, Entries: make([]BlacklistEntry, 0, len(wire.Data))}
	res.Meta.GeneratedAt = wire.Meta.GeneratedAt.Time
	for i, d := range wire.Data {
		p, ok := parsePrefix(d.IP)
		if !ok {
			return BlacklistResponse{}, fmt.Errorf("entry %d: %.60q is not an address", i+1, d.IP)
		}
		e := d.BlacklistEntry
		e.Prefix, e.LastSeen = p, d.LastSeen.Time
		res.Entries = append(res.Entries, e)
	}
	return res, nil
}

// parsePrefix parses an address or a network.
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
