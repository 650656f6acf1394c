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
	"time"

	"github.com/google/renameio/v2"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

const (
	// copyName is the name of the saved list in the state directory. A damaged one is renamed to
	// damagedName.
	copyName    = "blacklist.txt"
	damagedName = "blacklist.damaged.txt"
	// copyVersion is the first line of a saved list. Another first line means another format.
	copyVersion = "# SikkerGuard list copy, version 1"
	// maxHeader is the largest number of header lines of a saved list.
	maxHeader = 16
)

// Copy is the saved copy of the last accepted list.
type Copy struct {
	Pulled  time.Time // time of the pull, UTC
	From    string    // base URL of the API
	Request string    // Feed.Request of the request for it
	Source  string    // Feed.Source of the request for it; empty in a copy of an early version
	Entries int       // addresses and networks
	Body    []byte    // an address or network per line; its checksum was verified
}

// ErrNoCopy reports that no list was saved yet.
var ErrNoCopy = errors.New("no list was kept yet")

// DamagedError is a saved list whose content has changed. It was renamed.
type DamagedError struct {
	Aside string // new path; empty if it could not be renamed
	Err   error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("the kept list is damaged: %v", e.Err) }

// Unwrap returns the fault of the copy.
func (e *DamagedError) Unwrap() error { return e.Err }

// Request returns the identity of the request: the API, the key and the score. Lists of different
// requests are not compared with each other. It is a checksum and reveals nothing of the key.
func (f *Feed) Request() string { return checksum(f.o.URL, f.o.Key, strconv.Itoa(f.o.ScoreMin)) }

// Source returns the identity of the API and the score, without the key. After the key was rotated,
// a list of the same source is a good start: the host and its account are the same.
func (f *Feed) Source() string { return checksum(f.o.URL, strconv.Itoa(f.o.ScoreMin)) }

func checksum(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// Keep saves an accepted list in the state directory, atomically: after a crash there is the old
// copy or the new one. The copy also has the largest list of the last days and the quota.
func (f *Feed) Keep(list blocklist.Blocklist, pulled time.Time) error {
	if err := f.write(copyName, list, pulled, f.memory()); err != nil {
		return fmt.Errorf("keep list: %w", err)
	}
	return nil
}

// pending returns a file that will replace a file of the state directory.
func (f *Feed) pending(name string) (*renameio.PendingFile, error) {
	if err := f.o.Guard(); err != nil {
		return nil, err
	}
	f.sweep(name)
	return renameio.NewPendingFile(filepath.Join(f.o.StateDir, name), renameio.WithPermissions(0o600),
		renameio.WithTempDir(f.o.StateDir)) // not in TMPDIR, which others may write to and sweep does not see
}

// write replaces a saved list in the state directory.
func (f *Feed) write(name string, list blocklist.Blocklist, pulled time.Time, extra []header) (err error) {
	file, err := f.pending(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Cleanup()) }() // does nothing after a successful replacement
	w := bufio.NewWriter(file)
	_, err = fmt.Fprintf(w, "%s\n# pulled: %s\n# from: %s\n# request: %s\n# source: %s\n# entries: %d\n",
		copyVersion, pulled.UTC().Format(time.RFC3339), f.o.URL, f.Request(), f.Source(), list.Len())
	for _, h := range extra {
		_, werr := fmt.Fprintf(w, "# %s: %s\n", h.name, h.value)
		err = errors.Join(err, werr)
	}
	_, werr := fmt.Fprintf(w, "# sha256: %s\n", Checksum(list))
	if err = errors.Join(err, werr, writeList(w, list), w.Flush()); err == nil {
		err = f.copies.change(f.o.StateDir, name, file.CloseAtomicallyReplace)
	}
	return err
}

// Checksum returns the SHA-256 of a list, an entry per line, in hexadecimal.
func Checksum(list blocklist.Blocklist) string {
	sum := sha256.New()
	_ = writeList(sum, list) // a hash accepts every write
	return hex.EncodeToString(sum.Sum(nil))
}

// sweep removes temporary files of a process that was killed while it wrote a copy.
func (f *Feed) sweep(name string) {
	left, err := filepath.Glob(filepath.Join(f.o.StateDir, "."+name+"*")) // the names that renameio gives its files
	if err != nil {
		return
	}
	for _, path := range left {
		_ = os.Remove(path) // a file that stays takes only some space
	}
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

// Kept reads the saved list. The error is ErrNoCopy, a *DamagedError, or an error of reading. If
// the copy is of the same request, the Feed takes the largest list of the last days and the quota
// from it.
func (f *Feed) Kept() (Copy, error) {
	c, extra, err := f.read(copyName)
	// every other time is accepted: the clock may have been wrong then, or be wrong now
	if err == nil && c.Pulled.IsZero() {
		err = f.setAside(copyName, damagedName, errors.New("it does not say when it was pulled"))
	}
	if err != nil {
		return Copy{}, err
	}
	if c.Request == f.Request() {
		f.recall(extra)
	}
	return c, nil
}

// read reads a saved list from the state directory, and the headers that not every copy has. A
// damaged one is renamed to damagedName.
func (f *Feed) read(name string) (Copy, map[string]string, error) {
	if err := f.o.Guard(); err != nil {
		return Copy{}, nil, fmt.Errorf("read kept list: %w", err)
	}
	raw, err := readCapped(filepath.Join(f.o.StateDir, name), maxCustom, ErrCustomTooLarge)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Copy{}, nil, ErrNoCopy
	case err != nil:
		return Copy{}, nil, fmt.Errorf("read kept list: %w", err)
	}
	c, extra, err := parseCopy(raw)
	if err != nil {
		return Copy{}, nil, f.setAside(name, damagedName, err)
	}
	_ = f.copies.change(f.o.StateDir, name, func() error { return nil })
	return c, extra, nil
}

// setAside renames a damaged copy and returns the error that reports it.
func (f *Feed) setAside(name, aside string, why error) *DamagedError {
	damaged := &DamagedError{Aside: filepath.Join(f.o.StateDir, aside), Err: why}
	if os.Rename(filepath.Join(f.o.StateDir, name), damaged.Aside) != nil {
		damaged.Aside = ""
	}
	return damaged
}

// readCapped reads a regular file. If it has more than limit bytes, the error is tooLong.
func readCapped(path string, limit int64, tooLong error) ([]byte, error) {
	file, err := untrusted.OpenNoLink(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(untrusted.NewReader(file, limit, tooLong))
	return raw, errors.Join(err, file.Close())
}

// parseCopy parses a saved list and verifies the checksum of its body. The map has the headers
// without a field in Copy.
func parseCopy(raw []byte) (Copy, map[string]string, error) {
	var (
		c     Copy
		sum   string
		err   error
		extra = map[string]string{}
	)
	first, rest, _ := bytes.Cut(raw, []byte("\n"))
	if string(first) != copyVersion {
		return c, nil, errors.New("it does not begin with the line of a list copy")
	}
	for range maxHeader {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		name, value, isHeader := strings.Cut(strings.TrimPrefix(string(line), "# "), ": ")
		if !ok || !isHeader || line[0] != '#' {
			break
		}
		rest = after
		switch name {
		case "pulled":
			c.Pulled, err = time.Parse(time.RFC3339, value)
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
		default:
			extra[name] = value
		}
		if err != nil {
			return c, nil, fmt.Errorf("its header is wrong: %w", err)
		}
	}
	if got := sha256.Sum256(rest); hex.EncodeToString(got[:]) != sum {
		return c, nil, errors.New("its content does not match its checksum")
	}
	c.Body = rest
	return c, extra, nil
}
