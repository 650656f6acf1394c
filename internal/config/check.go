package config

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// maxShown is how much of an offending value a problem repeats, in bytes.
	maxShown = 80
	// maxKeyFile is the largest key file, in bytes.
	maxKeyFile = 4096
)

// must is a problem with a value: what it was, and what it must be.
func must(value, be string) string {
	if len(value) > maxShown {
		value = value[:maxShown] + "…"
	}
	return fmt.Sprintf("=%q: must be %s", value, be)
}

// number reads decimal digits alone: "010" and "0x10" would be taken for other numbers elsewhere.
func number[T int | uint16 | uint32](to *T, value, what string, least, most int) string {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most || strconv.Itoa(n) != value {
		return must(value, fmt.Sprintf("%s from %d to %d", what, least, most))
	}
	*to = T(n)
	return ""
}

func minutes(to *time.Duration, value string, least, most int) string {
	var n int
	problem := number(&n, value, "a whole number of minutes", least, most)
	*to = time.Duration(n) * time.Minute
	return problem
}

func boolean(to *bool, value string) string {
	switch strings.ToLower(value) {
	case "true", "1", "yes", "on":
		*to = true
	case "false", "0", "no", "off":
		*to = false
	default:
		return must(value, "true or false")
	}
	return ""
}

func oneOf[T ~string](to *T, value string, accepted ...T) string {
	*to = T(strings.ToLower(value))
	if slices.Contains(accepted, *to) {
		return ""
	}
	names := make([]string, len(accepted))
	for i, a := range accepted {
		names[i] = string(a)
	}
	return must(value, "one of "+strings.Join(names, ", "))
}

// setAPIKey takes the key from the variable or the file. No problem repeats any of it.
func setAPIKey(l *loader, key string) string {
	file := l.values["api_key_file"]
	switch {
	case key != "" && file != "":
		return " and SIKKER_API_KEY_FILE are both set: keep one of them"
	case key == "" && file == "":
		return " is not set: set it, or SIKKER_API_KEY_FILE, to your key from https://sikkerapi.com"
	case file != "":
		text, warning, err := readKey(file)
		if err != nil {
			return fmt.Sprintf("_FILE: %v", err)
		}
		key = text
		if warning != "" {
			l.cfg.Warnings = append(l.cfg.Warnings, warning)
		}
	}
	odd := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r > unicode.MaxASCII }
	if !strings.HasPrefix(key, "sk_") || strings.ContainsFunc(key, odd) {
		return " does not hold a SikkerAPI key: it begins with sk_ and has no spaces"
	}
	l.cfg.APIKey = NewSecret(key)
	return ""
}

// readKey reads the key file, and warns when others may read it too.
func readKey(path string) (key, warning string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", "", fmt.Errorf("read the key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", "", fmt.Errorf("read the key file: %q is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", "", fmt.Errorf("read the key file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return "", "", fmt.Errorf("read the key file: %w", err)
	}
	if len(text) > maxKeyFile {
		return "", "", fmt.Errorf("read the key file: %q has more than %d bytes", path, maxKeyFile)
	}
	if info.Mode().Perm()&0o004 != 0 {
		warning = fmt.Sprintf("every user can read the key file %q: chmod 600 it", path)
	}
	return strings.TrimSpace(string(text)), warning, nil
}

func setWhitelist(l *loader, value string) string {
	var bad []string
	for entry := range strings.SplitSeq(value, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		p, err := parsePrefix(entry)
		switch {
		case err != nil:
			bad = append(bad, strings.TrimPrefix(must(entry, "an address or a network like 192.0.2.0/24"), "="))
		case p.Bits() == 0:
			bad = append(bad, strings.TrimPrefix(must(entry, "less than everything: to block nothing, stop the agent"), "="))
		default:
			l.cfg.Whitelist = append(l.cfg.Whitelist, p)
		}
	}
	if len(bad) > 0 {
		return ": " + strings.Join(bad, "; ")
	}
	return ""
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
	if len(bad) > 0 {
		return ": " + strings.Join(bad, "; ")
	}
	return ""
}

func setCustomBlacklist(l *loader, path string) string {
	if path == "" {
		return ""
	}
	if !filepath.IsAbs(path) {
		return must(path, "an absolute path")
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Sprintf("%s (%v)", must(path, "a file that can be read"), err)
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

// setAPIURL takes https anywhere and plain http where nobody else listens: the key travels in each request.
func setAPIURL(l *loader, value string) string {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return ": must be a URL like https://api.sikkerapi.com"
	case u.User != nil:
		return ": must not hold a user or password" // and is not shown
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return must(u.Redacted(), "a URL without ? and #")
	case u.Scheme != "https" && (u.Scheme != "http" || !local(u.Hostname())):
		return must(u.Redacted(), "https, or plain http to a loopback or private address")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	l.cfg.APIURL = u
	return ""
}

// local says whether host is this host or an address of a private network.
func local(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast())
}
