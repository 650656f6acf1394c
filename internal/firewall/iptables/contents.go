package iptables

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// readInterval is the least time between two readings of all elements.
	readInterval = 5 * time.Second
	// readShare is how many times longer than a reading the pause after it is, at least: readings
	// take at most 1 % of a core. Half a million entries are read each few minutes.
	readShare = 100
)

// contents compares the elements of the sets with those that were applied. Other programs may
// exchange elements, as ipset knows no owner, and neither the number of elements nor a few samples
// show that.
type contents struct {
	seed      maphash.Seed
	due       time.Time // of the next reading
	exchanged error     // the mismatch that was found since the last change of ours; nil for none
}

// changed forgets the mismatch, because the sets were filled anew or are ours no longer.
func (c *contents) reset() { c.exchanged = nil }

// read reads all elements of the sets, if it is time to, and remembers a mismatch. The error is one
// of asking.
func (c *contents) check(ctx context.Context, f *Firewall, fills []setSpec) error {
	start := time.Now()
	if c.exchanged != nil || start.Before(c.due) {
		return nil
	}
	defer func() { c.due = time.Now().Add(max(readInterval, readShare*time.Since(start))) }()
	for _, spec := range fills {
		have := digester{seed: c.seed, head: []byte("add " + spec.name + " ")}
		if _, err := f.run.stream(ctx, fillTime, nil, &have, f.ipset, "save", spec.name); err != nil {
			return fmt.Errorf("read set %s: %w", spec.name, err)
		}
		have.end()
		if have.digest != digestOf(c.seed, spec.elements) {
			c.exchanged = mismatch("set %s holds other elements than were put into it", spec.name)
			return nil
		}
	}
	return nil
}

// digest stands for a number of elements, in whatever order.
type digest struct {
	elements int
	sum      uint64 // of the hashes of all elements
	odd      int    // elements that are not just a prefix, as one with nomatch or a timeout
}

func (d *digest) add(seed maphash.Seed, p netip.Prefix) {
	d.elements++
	d.sum += maphash.Comparable(seed, p)
}

func digestOf(seed maphash.Seed, ps []netip.Prefix) (d digest) {
	for _, p := range ps {
		d.add(seed, p)
	}
	return d
}

// digester takes the digest of a set from the lines that `ipset save` prints. It keeps at most one
// line.
type digester struct {
	digest
	seed maphash.Seed
	head []byte // of the line of an element
	rest []byte // the beginning of a line
}

// Write takes more lines. It never fails.
func (d *digester) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			d.rest = append(d.rest, p...)
			return n, nil
		}
		line := p[:i]
		if len(d.rest) > 0 {
			d.rest = append(d.rest, line...)
			line = d.rest
		}
		d.line(line)
		d.rest, p = d.rest[:0], p[i+1:]
	}
}

// end takes a last line that is not ended.
func (d *digester) end() {
	d.line(d.rest)
	d.rest = nil
}

func (d *digester) line(line []byte) {
	element, ok := bytes.CutPrefix(line, d.head)
	if !ok {
		return
	}
	p, err := blocklist.Parse(string(bytes.TrimRight(element, " ")))
	if err != nil {
		d.odd++
		return
	}
	d.add(d.seed, p)
}
