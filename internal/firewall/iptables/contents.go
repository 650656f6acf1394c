package iptables

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"iter"
	"net/netip"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// readInterval is the shortest time between two readings of all elements.
	readInterval = 5 * time.Second
	// readShare is the ratio of the pause after a reading to its duration, at least, so readings
	// take at most 1 % of a core. Half a million entries are read every few minutes.
	readShare = 100
)

// contents compares the elements of the sets with the applied ones. ipset has no owners, so another
// program may exchange elements. Their number and a few samples do not show that.
type contents struct {
	seed      maphash.Seed
	due       time.Time // of the next reading
	exchanged error     // mismatch found since our last change; nil if none
}

// reset clears the mismatch, because the sets were filled again or are no longer ours.
func (c *contents) reset() { c.exchanged = nil }

// check reads all elements of the sets if a reading is due, and stores a mismatch. The error is one
// of reading.
func (c *contents) check(ctx context.Context, f *Firewall, specs []setSpec) error {
	start := time.Now()
	if c.exchanged != nil || start.Before(c.due) {
		return nil
	}
	defer func() { c.due = time.Now().Add(max(readInterval, readShare*time.Since(start))) }()
	for _, spec := range specs {
		have := digester{seed: c.seed, head: []byte("add " + spec.name + " ")}
		if _, err := f.run.stream(ctx, fillTime, nil, &have, f.ipset, "save", spec.name); err != nil {
			return fmt.Errorf("read set %s: %w", spec.name, err)
		}
		have.end()
		if have.digest != digestOf(c.seed, spec.elements()) {
			c.exchanged = mismatch("set %s holds other elements than were put into it", spec.name)
			return nil
		}
	}
	return nil
}

// digest identifies a set of elements in any order.
type digest struct {
	elements int
	sum      uint64 // hashes of all elements
	odd      int    // elements with an option, such as nomatch or a timeout
}

func (d *digest) add(seed maphash.Seed, p netip.Prefix) {
	d.elements++
	d.sum += maphash.Comparable(seed, p)
}

func digestOf(seed maphash.Seed, ps iter.Seq[netip.Prefix]) (d digest) {
	for p := range ps {
		d.add(seed, p)
	}
	return d
}

// digester computes the digest of a set from the output of `ipset save`. It stores at most one
// line.
type digester struct {
	digest
	seed maphash.Seed
	head []byte // beginning of the line of an element
	rest []byte // unfinished line
}

// Write adds output. It never fails.
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

// end adds the last line if no newline ends it.
func (d *digester) end() {
	d.line(d.rest)
	d.rest = nil
}

func (d *digester) line(line []byte) {
	element, ok := bytes.CutPrefix(line, d.head)
	if !ok {
		return
	}
	p, err := blocklist.ParseBytes(bytes.TrimRight(element, " "))
	if err != nil {
		d.odd++
		return
	}
	d.add(d.seed, p)
}
