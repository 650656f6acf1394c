package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

func setWhitelist(l *loader, value string) string {
	var bad []string
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		p, err := parsePrefix(text)
		switch {
		case errors.Is(err, errZone):
			bad = append(bad, entry(text, "without the % and what follows"))
		case err != nil:
			bad = append(bad, entry(text, "an address or a network like 192.0.2.0/24"))
		case p.Bits() == 0:
			bad = append(bad, entry(text, "less than everything: to block nothing, stop the agent"))
		default:
			l.cfg.Whitelist = append(l.cfg.Whitelist, p)
		}
	}
	return entries(bad)
}

var errZone = errors.New("has a zone")

// parsePrefix reads an address or a network as a canonical prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return netip.Prefix{}, errZone
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil {
			return netip.Prefix{}, aerr
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

func setPortMap(l *loader, value string) string {
	ports, bad := parsePorts(value)
	l.cfg.Ports = ports
	return entries(bad)
}

func setCustomBlacklist(l *loader, path string) string {
	if path == "" {
		return ""
	}
	if !filepath.IsAbs(path) {
		return must(path, "an absolute path")
	}
	// Asked before opening: opening a pipe waits for a writer.
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Sprintf("%s (%v)", must(path, "a file that can be read"), reason(err))
	}
	l.cfg.CustomBlacklist = path
	return ""
}

func setStateDir(l *loader, path string) string {
	if !filepath.IsAbs(path) {
		return must(path, "an absolute path")
	}
	l.cfg.StateDir = filepath.Clean(path)
	return ""
}

// setAPIURL takes https anywhere and plain http where nobody else listens: the key travels in each request. What may hold
// a password or a key, before @ or after ? and #, is not shown, nor is what cannot be parsed and so may hold anything.
func setAPIURL(l *loader, value string) string {
	u, err := url.Parse(strings.TrimRight(value, "/"))
	switch {
	case strings.Contains(value, "@"):
		return ": must not hold a user or password"
	case strings.ContainsAny(value, "?#"):
		return ": must be a URL without ? and #"
	case err != nil || u.Hostname() == "" || !goodPort(u.Port()):
		return ": must be a URL like https://api.sikkerapi.com"
	case u.Scheme != "https" && (u.Scheme != "http" || !local(u.Hostname())):
		return must(value, "https, or plain http to a loopback or private address")
	}
	l.cfg.APIURL = u
	return ""
}

// goodPort takes no port for the usual one.
func goodPort(port string) bool {
	n, ok := decimal(port)
	return port == "" || ok && n >= 1 && n <= 65535
}

// local says whether host is this host or an address of a private network.
func local(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsLoopback() || a.IsPrivate())
}
