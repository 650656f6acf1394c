package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

const (
	resolvConf = "etc/resolv.conf"
	// stubConf is the file to which systemd-resolved writes the resolvers that its stub asks
	// (systemd-resolved.service(8)).
	stubConf = "run/systemd/resolve/resolv.conf"

	// maxConfSize bounds the size of a file, in bytes. A resolv.conf has a few hundred.
	maxConfSize = 64 << 10
	// maxNameservers bounds the nameservers of one file. glibc and musl ask three, systemd-resolved
	// lists those of every link.
	maxNameservers = 32
	// readTimeout is the time that Local waits for the files.
	readTimeout = 2 * time.Second
)

var errDiskHangs = errors.New("the file system does not answer")

// conf is the content of the resolver files.
type conf struct {
	addrs   []netip.Addr
	named   []netip.Addr // the part of addrs that resolv.conf names
	problem error        // the resolvers behind systemd-resolved are unknown
	err     error        // resolv.conf cannot be read
}

// equal reports whether c and o have the same addresses and errors.
func (c conf) equal(o conf) bool {
	return slices.Equal(c.addrs, o.addrs) &&
		errorText(c.problem) == errorText(o.problem) && errorText(c.err) == errorText(o.err)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// files reads the resolver files below root, one reader at a time.
type files struct {
	root    string
	timeout time.Duration // most time that read waits
	busy    chan struct{} // capacity 1: holds a value while a reader runs
}

// read returns the current content of the files. It does not wait for a file system that does not
// answer: it abandons the reader, and returns an error until that reader has ended.
func (f *files) read() conf {
	timer := time.NewTimer(f.timeout)
	defer timer.Stop()
	hangs := conf{err: fmt.Errorf("read the resolvers: %w; the known resolvers stay allowlisted", errDiskHangs)}
	select {
	case f.busy <- struct{}{}:
	case <-timer.C:
		return hangs
	}
	confC := make(chan conf, 1)
	go func() {
		defer func() { <-f.busy }()
		var c conf
		if err := panics.Contain(func() error { c = f.resolvers(); return nil }); err != nil {
			c = conf{err: err}
		}
		confC <- c
	}()
	select {
	case c := <-confC:
		return c
	case <-timer.C:
		return hangs
	}
}

// resolvers returns the resolvers that the host asks. If systemd-resolved's stub is among them, the
// resolvers behind it are included.
func (f *files) resolvers() conf {
	addrs, err := f.nameservers(resolvConf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return conf{} // without the file, libraries ask loopback (resolv.conf(5))
	case err != nil:
		err = fmt.Errorf("read the resolvers: %w; until that works, add them to SIKKER_WHITELIST", err)
		return conf{addrs: addrs, named: addrs, err: err}
	case !slices.ContainsFunc(addrs, isStub):
		return conf{addrs: addrs, named: addrs}
	}
	behind, err := f.nameservers(stubConf)
	c := conf{addrs: slices.Concat(addrs, behind), named: addrs}
	if err != nil {
		c.problem = fmt.Errorf("read the resolvers behind systemd-resolved: %w; "+
			"in a container mount that directory read-only, or add them to SIKKER_WHITELIST", err)
	}
	return c
}

// isStub reports whether systemd-resolved listens on a.
func isStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// nameservers returns the nameservers of one file. If the file is larger than maxConfSize, it
// returns those of the beginning, and an error.
func (f *files) nameservers(name string) ([]netip.Addr, error) {
	path := filepath.Join(f.root, filepath.FromSlash(name))
	text, err := readBeginning(path)
	if err != nil {
		return nil, err
	}
	if len(text) <= maxConfSize {
		return parseNameservers(text), nil
	}
	// The cut may split an address and change it into another one.
	text = text[:bytes.LastIndexByte(text[:maxConfSize], '\n')+1]
	return parseNameservers(text), fmt.Errorf("read %s: more than %d bytes", path, maxConfSize)
}

// readBeginning returns the content of a file, at most one byte more than maxConfSize.
func readBeginning(path string) ([]byte, error) {
	f, err := untrusted.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxConfSize+1))
}

// parseNameservers parses nameserver lines as in resolv.conf(5): the keyword, an address, and text
// that is ignored. Zones are removed, because the allowlist has none. Other lines are skipped.
func parseNameservers(text []byte) []netip.Addr {
	var addrs []netip.Addr
	for line := range strings.Lines(string(text)) {
		if len(addrs) == maxNameservers {
			break
		}
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err != nil {
			continue
		}
		if a = blocklist.CanonicalAddr(a); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
