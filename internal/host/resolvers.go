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
	// stubConf is where systemd-resolved writes the resolvers that its stub asks (systemd-resolved.service(8)).
	stubConf = "run/systemd/resolve/resolv.conf"

	// maxConfSize is in bytes. A resolv.conf has a few hundred.
	maxConfSize = 64 << 10
	// maxNameservers bounds what one file adds. glibc and musl ask three, systemd-resolved lists every link's.
	maxNameservers = 32
	// readMost is how long a look at the host waits for the files.
	readMost = 2 * time.Second
)

var errDiskHangs = errors.New("the file system does not answer")

// conf is what the files say about the resolvers.
type conf struct {
	addrs   []netip.Addr
	named   []netip.Addr // those of addrs that resolv.conf names
	problem error        // the resolvers behind systemd-resolved are not known
	err     error        // the host's own cannot be read
}

// equal reports whether both say the same.
func (c conf) equal(o conf) bool {
	return slices.Equal(c.addrs, o.addrs) && errorText(c.problem) == errorText(o.problem) && errorText(c.err) == errorText(o.err)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// files reads the resolvers from below a directory, one reader at a time.
type files struct {
	root string
	most time.Duration // how long a reading is waited for
	busy chan struct{} // capacity 1: there is a reader
}

// read returns what the files say now. It does not wait for a file system that hangs: the reader of that one is left
// behind, and until it has ended every reading is an error.
func (f *files) read() conf {
	timer := time.NewTimer(f.most)
	defer timer.Stop()
	hangs := conf{err: fmt.Errorf("read the resolvers: %w; those known before stay whitelisted", errDiskHangs)}
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

// resolvers reads those that the host asks. Where systemd-resolved's stub is one of them, those behind it are among them.
func (f *files) resolvers() conf {
	addrs, err := f.nameservers(resolvConf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return conf{} // then libraries ask loopback (resolv.conf(5))
	case err != nil:
		return conf{addrs: addrs, named: addrs, err: fmt.Errorf("read the resolvers: %w; name them in SIKKER_WHITELIST until that works", err)}
	case !slices.ContainsFunc(addrs, isStub):
		return conf{addrs: addrs, named: addrs}
	}
	behind, err := f.nameservers(stubConf)
	c := conf{addrs: slices.Concat(addrs, behind), named: addrs}
	if err != nil {
		c.problem = fmt.Errorf("read the resolvers behind systemd-resolved: %w; "+
			"in a container mount that directory read-only, or name them in SIKKER_WHITELIST", err)
	}
	return c
}

// isStub is true for the addresses that systemd-resolved listens on.
func isStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// nameservers reads one file. Of a file that is too large it reads the beginning, and says so.
func (f *files) nameservers(name string) ([]netip.Addr, error) {
	path := filepath.Join(f.root, filepath.FromSlash(name))
	text, err := readBeginning(path)
	if err != nil {
		return nil, err
	}
	if len(text) <= maxConfSize {
		return parseNameservers(text), nil
	}
	// The cut may go through an address and make another of it.
	text = text[:bytes.LastIndexByte(text[:maxConfSize], '\n')+1]
	return parseNameservers(text), fmt.Errorf("read %s: more than %d bytes", path, maxConfSize)
}

// readBeginning reads a file up to one byte more than maxConfSize.
func readBeginning(path string) ([]byte, error) {
	f, err := untrusted.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxConfSize+1))
}

// parseNameservers reads the nameserver lines as resolv.conf(5) has them: the keyword, an address, and whatever follows is
// not looked at. Zones are stripped, for the whitelist has none; everything else is passed over.
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
