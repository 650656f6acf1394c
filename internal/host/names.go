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
	// namesFor is how long addresses of names are good for a start at which names do not resolve. A
	// host that was off for some days has them. After longer an address may have become that of
	// another host, which a list names for good reasons.
	namesFor = 7 * 24 * time.Hour
	// namesVersion is the format of the text.
	namesVersion = 1
	// maxNamesText is in bytes. Two names with maxAnswers addresses each take some 3,000.
	maxNamesText = 16 << 10
	// maxNames is how many names the text may have: the API's and the proxy's are two.
	maxNames = 4
)

// Names is the addresses that names resolved to.
type Names struct {
	At    time.Time               // when they were known to
	Addrs map[string][]netip.Addr // by name, sorted
}

// Equal reports whether both have the same names with the same addresses.
func (n Names) Equal(o Names) bool { return maps.EqualFunc(n.Addrs, o.Addrs, slices.Equal) }

// namesFile is Names as a text.
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

// ErrNames is a text that Append did not make.
var ErrNames = errors.New("the addresses of names are damaged, or of another version")

// ParseNames takes a text as Append makes it, and nothing else.
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

// named returns the names that Names resolves, by kind. A name that is an address needs no resolving.
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

// Resolved returns the addresses that the names were last seen to have, without those that Recall
// gave.
func (h *Host) Resolved(now time.Time) Names {
	n := Names{At: now, Addrs: map[string][]netip.Addr{}}
	names := h.named()
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, name := range names {
		var addrs []netip.Addr
		for _, a := range h.last[k] {
			if a, ok := sourceAddr(a); ok {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > 0 && !h.recalled[k] {
			slices.SortFunc(addrs, netip.Addr.Compare)
			n.Addrs[name] = slices.Compact(addrs)
		}
	}
	return n
}

// Recall whitelists the addresses that an earlier run resolved the names to, until a look at them
// succeeds. Those older than namesFor are passed over; if the clock was ahead or is behind, the age is
// not known, and they count.
func (h *Host) Recall(n Names, now time.Time) {
	if now.Sub(n.At) > namesFor {
		return
	}
	names := h.named()
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, name := range names {
		if addrs := n.Addrs[name]; len(addrs) > 0 && len(h.last[k]) == 0 {
			h.last[k] = slices.Clone(addrs)
			h.current[k] = slices.Concat(h.current[k], addrs)
			h.recalled[k] = true
		}
	}
}
