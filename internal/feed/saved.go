package feed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// copyVersion is the first line of a saved list. Another first line means another format.
	copyVersion = "# SikkerGuard list copy, version 1"
	// maxHeader is the largest number of header lines of a saved list.
	maxHeader = 16
)

// Copy is the saved copy of the last accepted list.
type Copy struct {
	Identity           // of the feed; Source is empty in a copy of an early version
	Fetched  time.Time // when it was fetched, UTC
	Entries  int       // addresses and networks
}

// ErrNoCopy reports that no list was saved yet.
var ErrNoCopy = errors.New("no list was saved yet")

// DamagedError is a saved list whose content has changed. It was renamed.
type DamagedError struct {
	Aside string // new path; empty if it could not be renamed
	Err   error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("the saved list is damaged: %v", e.Err) }

// Unwrap returns the fault of the copy.
func (e *DamagedError) Unwrap() error { return e.Err }

// Saved holds the saved lists of one feed in the state directory: the last good one, and the one
// that a guard refused. Its methods may be called by any goroutine.
type Saved struct {
	dir  *Dir
	name string
	feed Feed

	mu      sync.Mutex // guards largest
	largest largest
}

// NewSaved returns the saved lists of f in dir. Their files begin with name: name.txt,
// name.refused.txt, name.damaged.txt.
func NewSaved(dir *Dir, name string, f Feed) *Saved { return &Saved{dir: dir, name: name, feed: f} }

func (s *Saved) fileName() string    { return s.name + ".txt" }
func (s *Saved) refusedName() string { return s.name + ".refused.txt" }
func (s *Saved) damagedName() string { return s.name + ".damaged.txt" }

// Lost reports whether another program removed, replaced or changed the saved lists since this
// process wrote or read them.
func (s *Saved) Lost() (list, refused bool) {
	return s.dir.lost(s.fileName()), s.dir.lost(s.refusedName())
}

// Save saves an accepted list, atomically: after a crash there is the old copy or the new one. The
// copy also has the largest list of the last days and the quota.
func (s *Saved) Save(list blocklist.Blocklist, fetched time.Time) error {
	if err := s.write(s.fileName(), list, fetched, s.memory()); err != nil {
		return fmt.Errorf("save list: %w", err)
	}
	return nil
}

// write replaces a saved list in the state directory.
func (s *Saved) write(name string, list blocklist.Blocklist, fetched time.Time, extra []header) error {
	return s.dir.save(name, func(file io.Writer) error {
		w, id := bufio.NewWriter(file), s.feed.Identity()
		_, err := fmt.Fprintf(w, "%s\n# pulled: %s\n# from: %s\n# request: %s\n# source: %s\n# entries: %d\n",
			copyVersion, fetched.UTC().Format(time.RFC3339), id.From, id.Request, id.Source, list.Len())
		for _, h := range extra {
			_, werr := fmt.Fprintf(w, "# %s: %s\n", h.name, h.value)
			err = errors.Join(err, werr)
		}
		_, werr := fmt.Fprintf(w, "# sha256: %s\n", Checksum(list))
		return errors.Join(err, werr, writeList(w, list), w.Flush())
	})
}

// Checksum returns the SHA-256 of a list, an entry per line, in hexadecimal.
func Checksum(list blocklist.Blocklist) string {
	sum := sha256.New()
	_ = writeList(sum, list) // a hash accepts every write
	return hex.EncodeToString(sum.Sum(nil))
}

// writeList writes one entry per line, including special-purpose space, which package vet removes
// again.
func writeList(w io.Writer, list blocklist.Blocklist) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	for p := range list.Whole().All() {
		if p.IsSingleIP() {
			line = p.Addr().AppendTo(line[:0])
		} else {
			line = p.AppendTo(line[:0])
		}
		if _, err := bw.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// Use reads the body of a saved list, an address or network per line. The copy is that of its
// headers. The body is not held in memory, so its checksum is verified after it was read: if the
// method that calls Use returns an error, the body was damaged and must not be enforced.
type Use func(c Copy, body io.Reader)

// Load reads the saved list, and calls use unless that is nil. The error is ErrNoCopy, a
// *DamagedError, or an error of reading. If the copy is of the same request, s and its feed take the
// largest list of the last days and the quota from it.
func (s *Saved) Load(use Use) (Copy, error) {
	c, extra, err := s.read(s.fileName(), use)
	// every other time is accepted: the clock may have been wrong then, or be wrong now
	if err == nil && c.Fetched.IsZero() {
		err = s.setAside(s.fileName(), errors.New("it does not say when it was pulled"))
	}
	if err != nil {
		return Copy{}, err
	}
	if c.Request == s.feed.Identity().Request {
		s.recall(extra)
	}
	return c, nil
}

// read reads a saved list, and the headers that not every copy has. A damaged one is renamed.
func (s *Saved) read(name string, use Use) (Copy, map[string]string, error) {
	var (
		c       Copy
		extra   map[string]string
		damaged error
	)
	err := s.dir.stream(name, maxFile, ErrFileTooLarge, func(r io.Reader) { c, extra, damaged = parseCopy(r, use) })
	switch {
	case errors.Is(err, ErrNoCopy):
		return Copy{}, nil, ErrNoCopy
	case err != nil:
		return Copy{}, nil, fmt.Errorf("read saved list: %w", err)
	case damaged != nil:
		return Copy{}, nil, s.setAside(name, damaged)
	}
	return c, extra, nil
}

// setAside renames a damaged copy and returns the error that reports it.
func (s *Saved) setAside(name string, why error) *DamagedError {
	damaged := &DamagedError{Aside: filepath.Join(s.dir.path, s.damagedName()), Err: why}
	if os.Rename(filepath.Join(s.dir.path, name), damaged.Aside) != nil {
		damaged.Aside = ""
	}
	s.dir.copies.forget(name)
	return damaged
}

// parseCopy parses a saved list, calls use with its body, and verifies the checksum of the body. The
// map has the headers without a field in Copy.
func parseCopy(r io.Reader, use Use) (Copy, map[string]string, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if line, _ := nextLine(br); line != copyVersion {
		return Copy{}, nil, errors.New("it does not begin with the line of a list copy")
	}
	_, _ = br.Discard(len(copyVersion) + 1)
	c, sum, extra, err := parseHeaders(br)
	if err != nil {
		return c, nil, fmt.Errorf("its header is wrong: %w", err)
	}
	got := sha256.New()
	body := io.TeeReader(br, got)
	if use != nil {
		use(c, body)
	}
	_, err = io.Copy(io.Discard, body) // of the rest; stream returns the error
	if err == nil && hex.EncodeToString(got.Sum(nil)) != sum {
		err = errors.New("its content does not match its checksum")
	}
	return c, extra, err
}

// parseHeaders reads the header lines from br, and returns them with the checksum.
func parseHeaders(br *bufio.Reader) (c Copy, sum string, extra map[string]string, err error) {
	extra = map[string]string{}
	for range maxHeader {
		line, ok := nextLine(br)
		name, value, isHeader := strings.Cut(strings.TrimPrefix(line, "# "), ": ")
		if !ok || !isHeader || line[0] != '#' {
			break
		}
		_, _ = br.Discard(len(line) + 1)
		switch name {
		case "pulled":
			c.Fetched, err = time.Parse(time.RFC3339, value)
		case "from":
			c.From = value
		case "request":
			c.Request = value
		case "source":
			c.Source = value
		case "entries":
			c.Entries, err = strconv.Atoi(value)
		case "sha256":
			sum = value
		case "file": // in an operator's list of an early version, whose request was that of the API
			c.Request, c.Source = value, value
		default:
			extra[name] = value
		}
		if err != nil {
			return c, "", nil, err
		}
	}
	return c, sum, extra, nil
}

// nextLine returns the next line of br without its newline, and leaves it in br. It returns false if
// there is none, or if the buffer of br is too small for it.
func nextLine(br *bufio.Reader) (string, bool) {
	next, _ := br.Peek(br.Size())
	line, _, ok := bytes.Cut(next, []byte("\n"))
	return string(line), ok
}
