package config

import (
	"errors"
	"fmt"
	"iter"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/untrusted"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// maxWhitelist is the largest share of the addresses in use that the whitelist may cover, in each
// family. Beyond it the firewall would hardly block anything.
const maxWhitelist = 0.5

// setWhitelist accepts entries between commas, semicolons, spaces or newlines, in quotes or
// brackets, with comments.
func setWhitelist(l *loader, value string) string {
	var bad []string
	for text := range words(value) {
		p, err := blocklist.Parse(text)
		switch {
		case errors.Is(err, blocklist.ErrZone):
			bad = append(bad, entry(text, "without the % and the zone after it"))
		case err != nil:
			bad = append(bad, entry(text, "an address or a network like 192.0.2.0/24"))
		case p.Bits() == 0:
			bad = append(bad, entry(text, "less than all addresses: to block nothing, stop the agent"))
		default:
			l.cfg.Whitelist = append(l.cfg.Whitelist, p)
		}
	}
	// The entries together may be everything, as 0.0.0.0/1 and 128.0.0.0/1 are. Special-purpose
	// space does not count: it is never blocked.
	public, _ := blocklist.New(l.cfg.Whitelist).Blockable()
	v4, v6 := public.Coverage()
	if len(bad) == 0 && max(v4, v6) > maxWhitelist {
		family, share := "public IPv4", v4
		if v6 > v4 {
			family, share = "IPv6", v6
		}
		return fmt.Sprintf(": covers %.0f%% of the %s addresses; the limit is %.0f%%: to block nothing, stop the agent",
			min(share, 1)*100, family, maxWhitelist*100)
	}
	return entries(bad)
}

// words yields the entries of a list in any of the forms in which operators write lists.
func words(value string) iter.Seq[string] {
	around := strings.NewReplacer("[", "", "]", "", `"`, "", "'", "", "\ufeff", "")
	between := func(r rune) bool { return unicode.IsSpace(r) || r == ',' || r == ';' }
	return func(yield func(string) bool) {
		for line := range strings.Lines(value) {
			line, _, _ = strings.Cut(line, "#")
			line, _, _ = strings.Cut(line, "//")
			for _, word := range strings.FieldsFunc(around.Replace(line), between) {
				if !yield(word) {
					return
				}
			}
		}
	}
}

func setPortMap(l *loader, value string) string {
	ports, bad := parsePorts(value)
	l.cfg.Ports = ports
	return entries(bad)
}

// CustomCopy is the name of the copy of the custom blacklist in the state directory.
const CustomCopy = "custom.txt"

// readableTimeout is the longest wait for the file system of the custom blacklist.
const readableTimeout = 2 * time.Second

// setCustomBlacklist accepts the path of a readable file. If the file was read before, the state
// directory has a copy. Then the file may be missing, or on a file system that hangs, without
// leaving the host unprotected.
func setCustomBlacklist(l *loader, path string) string {
	if path == "" {
		return ""
	}
	if !filepath.IsAbs(path) {
		return must(path, "an absolute path")
	}
	l.cfg.CustomBlacklist = path
	doneC := make(chan error, 1)
	go func() { doneC <- readable(path) }() // a goroutine that hangs ends with the process
	timer := time.NewTimer(readableTimeout)
	defer timer.Stop()
	select {
	case <-timer.C:
		l.cfg.Warnings = append(l.cfg.Warnings,
			fmt.Sprintf("SIKKER_CUSTOM_BLACKLIST: the file system of %s does not answer", quote(path)))
	case err := <-doneC:
		if err == nil {
			break
		}
		if readable(filepath.Join(l.values[viperKey("SIKKER_STATE_DIR")], CustomCopy)) == nil {
			break // the agent reports the file as a condition and uses the copy
		}
		l.cfg.CustomBlacklist = ""
		return fmt.Sprintf("%s (%v)", must(path, "a file that can be read"), reason(err))
	}
	return ""
}

// readable returns an error unless path is a regular file that can be opened.
func readable(path string) error {
	f, err := untrusted.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func setStateDir(l *loader, path string) string {
	if !filepath.IsAbs(path) {
		return must(path, "an absolute path")
	}
	l.cfg.StateDir = filepath.Clean(path)
	return ""
}

// setAPIURL accepts https anywhere, and plain http only where no other host can read it: each
// request contains the key. Parts that may hold a password or a key, before @ or after ? and #, are
// not shown, nor is a value that cannot be parsed and so may hold anything.
func setAPIURL(l *loader, value string) string {
	u, err := url.Parse(strings.TrimRight(value, "/"))
	switch {
	case strings.Contains(value, "@"):
		return ": must not hold a user or password"
	case strings.ContainsAny(value, "?#"):
		return ": must be a URL without ? and #"
	case err != nil || u.Hostname() == "" || !goodPort(u.Port()):
		return ": must be a URL like https://api.sikkerapi.com"
	case u.Scheme != "https" && (u.Scheme != "http" || !sikkerapi.LocalHost(u.Hostname())):
		return must(value, "https, or plain http to a loopback or private address")
	}
	l.cfg.APIURL = u
	return ""
}

// goodPort reports whether port is valid. An empty port is the default one.
func goodPort(port string) bool {
	n, ok := decimal(port)
	return port == "" || ok && n >= 1 && n <= 65535
}
