package iptables

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"net/netip"
	"strings"
	"time"
)

// script is the input of `ipset restore`, without the elements of large sets.
func script(text string) io.Reader { return strings.NewReader(text) }

// errUseWriteTo means that a writerTo was read.
var errUseWriteTo = errors.New("it is written, not read")

// writerTo is an input that is written to the program line by line, so that the whole text is never
// in memory.
type writerTo func(w *bufio.Writer)

// Read is never called: io.Copy, and so os/exec, prefers WriteTo.
func (f writerTo) Read([]byte) (int, error) { return 0, errUseWriteTo }

// WriteTo writes the input to w. The number of bytes is not counted.
func (f writerTo) WriteTo(w io.Writer) (int64, error) {
	b := bufio.NewWriterSize(w, 64<<10)
	f(b)
	return 0, b.Flush() // the first error of a writer of bufio stays
}

// fillScript returns the script that makes and fills the sets: one line for each set and each
// element, with a constant name and a number.
func fillScript(specs ...setSpec) writerTo {
	return func(w *bufio.Writer) {
		for _, spec := range specs {
			_, _ = w.WriteString(spec.create() + "\n")
			writeLines(w, "add", spec.name, spec.elements())
		}
	}
}

// writeLines writes a line for each element.
func writeLines(w *bufio.Writer, verb, set string, elements iter.Seq[netip.Prefix]) {
	line := []byte(verb + " " + set + " ")
	head := len(line)
	for p := range elements {
		line = append(p.AppendTo(line[:head]), '\n')
		_, _ = w.Write(line)
	}
}

// restore runs `ipset restore` with the script.
func (f *Firewall) restore(ctx context.Context, limit time.Duration, script io.Reader) error {
	_, _, err := f.run.run(ctx, limit, script, f.ipset, "restore")
	return err
}
