// Package feed provides the sources of entries: SikkerAPI, the operator's file, and the saved lists
// in the state directory.
//
// A Feed returns bytes, limited in size, and decides nothing about them: package vet parses them,
// and package enforce retries. It fails with the errors of the client (unauthorised, quota,
// temporary), or if a file cannot be read. If a list is cut short or too long, reading it fails.
// Saved holds a feed's last good list; if that has changed, the error is a *DamagedError.
package feed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
)

// Feed is a named source of entries.
type Feed interface {
	// Name returns the name of the feed in log, status and files: lower case, without spaces.
	Name() string
	// Fetch returns the current list, an entry per line. The caller reads and closes it. Reading
	// fails if the list is cut short or too long.
	Fetch(ctx context.Context) (io.ReadCloser, error)
	// Identity returns the origin of the lists.
	Identity() Identity
}

// Identity is the origin of a list. Lists of different origins are not compared with each other.
// The checksums reveal nothing of a key.
type Identity struct {
	From    string // address, for people
	Request string // checksum of everything that selects the list, including the key
	Source  string // checksum of everything but the key; a list of an earlier key has the same Source
}

func checksum(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}
