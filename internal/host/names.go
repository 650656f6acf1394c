package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// namesMaxAge is the age up to which saved addresses are used at a start without DNS. A host
	// that was off for some days can use them. Later an address may belong to another host, which a
	// list contains for good reasons.
	namesMaxAge = 7 * 24 * time.Hour
	// namesVersion is the version of the text format.
	namesVersion = 1
	// maxNamesText is the most bytes of the text. Two names with maxAnswers addresses each take
	// some 3,000.
	maxNamesText = 16 << 10
	// maxNames is the most names in the text. The API and the proxy have one each.
	maxNames = 4
)

// Names holds the addresses to which names resolved.
type Names struct {
	At    time.Time               // time at which they were known
	Addrs map[string][]netip.Addr // by name, sorted
}

// Equal reports whether both have the same names with the same addresses.
func (n Names) Equal(o Names) bool { return maps.EqualFunc(n.Addrs, o.Addrs, slices.Equal) }

// namesFile is the JSON form of Names.
type namesFile struct {
	Version int                     `json:"version"`
	At      time.Time               `json:"at"`
	Names   map[string][]netip.Addr `json:"names"`
}

// Append appends n to text in the format that ParseNames reads.
func (n Names) Append(text []byte) ([]byte, error) {
	line, err := json.Marshal(namesFile{Version: namesVersion, At: n.At.UTC(), Names: n.Addrs})
	if err != nil {
		return nil, fmt.Errorf("encode addresses of names: %w", err)
	}
	return append(append(text, line...), '\n'), nil
}

// ErrNames means that a text was not made by Append of this version.
var ErrNames = errors.New("the saved addresses of names are damaged or have another version")

// ParseNames parses a text in the format of Append. It accepts no other text.
func ParseNames(text []byte) (Names, error) {
	if len(text) > maxNamesText {
		return Names{}, ErrNames
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var f namesFile
	if err := d.Decode(&f); err != nil {
		return Names{}, errors.Join(ErrNames, err)
	}
	if rest, err := d.Token(); err != io.EOF || rest != nil {
		return Names{}, ErrNames
	}
	if f.Version != namesVersion || f.At.IsZero() || len(f.Names) > maxNames {
		return Names{}, ErrNames
	}
	for name, addrs := range f.Names {
		if name == "" || len(addrs) == 0 || len(addrs) > maxAnswers {
			return Names{}, ErrNames
		}
		for _, a := range addrs {
			if p, ok := sourceAddr(a); !ok || p != a {
				return Names{}, ErrNames
			}
		}
	}
	return Names{At: f.At, Addrs: f.Names}, nil
}

// named returns the names that Names resolves, by kind. A name that is an address is not resolved.
func (h *Host) named() map[kind]string {
	names := map[kind]string{}
	add := func(k kind, name string) {
		if _, err := netip.ParseAddr(name); err != nil && name != "" {
			names[k] = name
		}
	}
	if h.o.APIURL == nil {
		return names
	}
	add(kindAPI, h.o.APIURL.Hostname())
	if u, err := h.proxyFor(h.o.APIURL); err == nil && u != nil {
		add(kindProxy, u.Hostname())
	}
	return names
}

// Resolved returns the addresses to which the names resolved last, without those that Recall added.
func (h *Host) Resolved(now time.Time) Names {
	n := Names{At: now, Addrs: map[string][]netip.Addr{}}
	names := h.named()
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, name := range names {
		var addrs []netip.Addr
		for _, a := range h.finds.last[k] {
			if a, ok := sourceAddr(a); ok {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > 0 && !h.finds.recalled[k] {
			slices.SortFunc(addrs, netip.Addr.Compare)
			n.Addrs[name] = slices.Compact(addrs)
		}
	}
	return n
}

// Recall allowlists the addresses to which an earlier run resolved the names, until a lookup
// succeeds. It ignores addresses older than namesMaxAge. If the clock was ahead then or is behind
// now, their age is unknown and they count.
func (h *Host) Recall(n Names, now time.Time) {
	if now.Sub(n.At) > namesMaxAge {
		return
	}
	names := h.named()
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, name := range names {
		h.finds.recall(k, n.Addrs[name])
	}
}
