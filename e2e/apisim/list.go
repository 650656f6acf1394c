package apisim

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// entry is a line of the list.
type entry struct {
	text   string // as in the file
	prefix netip.Prefix
	score  int
}

// list reads the file and returns its entries, the highest score first, otherwise in their order.
func (s *Sim) list() ([]entry, error) {
	if s.o.List == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(s.o.List)
	if err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	var all []entry
	for line := range strings.Lines(string(raw)) {
		if e, ok := parseEntry(line); ok {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(b.score, a.score) })
	return all, nil
}

// parseEntry parses a line. ok is false if it is empty.
func parseEntry(line string) (e entry, ok bool) {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	e = entry{text: line, score: 100}
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return e, false
	}
	if len(fields) == 2 {
		score, err := strconv.Atoi(fields[1])
		if err != nil || score < 1 || score > 100 {
			return e, true
		}
		e.text, e.score = fields[0], score
	}
	if p, err := netip.ParsePrefix(e.text); err == nil {
		e.prefix = p
	} else if a, err := netip.ParseAddr(e.text); err == nil && a.Zone() == "" {
		e.prefix = netip.PrefixFrom(a, a.BitLen())
	}
	return e, true
}
