package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	resolvConf = "etc/resolv.conf"
	// stubConf is where systemd-resolved writes the resolvers that its stub asks (systemd-resolved.service(8)).
	stubConf = "run/systemd/resolve/resolv.conf"

	// maxConfSize is in bytes. A resolv.conf has a few hundred.
	maxConfSize = 64 << 10
	// maxNameservers bounds what one file adds. glibc and musl ask three, systemd-resolved lists every link's.
	maxNameservers = 32
)

var errNotRegular = errors.New("not a regular file")

// resolvers are those that the host asks. Where systemd-resolved's stub is one of them, they are those behind it too; a
// problem says that they are not known, an error that the host's own cannot be read.
func (h *Host) resolvers() (addrs []netip.Addr, problem, err error) {
	addrs, err = h.nameservers(resolvConf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil // then libraries ask loopback (resolv.conf(5))
	case err != nil:
		return addrs, nil, fmt.Errorf("read the resolvers: %w; name them in SIKKER_WHITELIST until that works", err)
	case !slices.ContainsFunc(addrs, isStub):
		return addrs, nil, nil
	}
	behind, err := h.nameservers(stubConf)
	addrs = append(addrs, behind...)
	if err != nil {
		problem = fmt.Errorf("read the resolvers behind systemd-resolved: %w; "+
			"in a container mount that directory read-only, or name them in SIKKER_WHITELIST", err)
	}
	return addrs, problem, nil
}

// isStub is true for the addresses that systemd-resolved listens on.
func isStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// nameservers reads one file. Of a file that is too large it reads the beginning, and says so.
func (h *Host) nameservers(name string) ([]netip.Addr, error) {
	path := filepath.Join(h.o.Root, filepath.FromSlash(name))
	text, err := readCapped(path)
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

// readCapped reads a file up to one byte more than maxConfSize.
func readCapped(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		// Opening a FIFO would wait for a writer.
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	f, err := os.Open(path)
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
		if a = a.WithZone("").Unmap(); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
