package config

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/sikkerapi/sikkerguard/internal/untrusted"
)

const (
	apiKey     = prefix + "API_KEY"
	apiKeyFile = prefix + "API_KEY_FILE"

	// keyPrefix begins every key of SikkerAPI.
	keyPrefix = "sk_"
	// minKey is the least length of a key that is searched for in other values. Shorter texts occur
	// there by chance.
	minKey = 8
	// maxKeyFile is the largest key file, in bytes.
	maxKeyFile = 4096
)

const noKey = " does not hold a SikkerAPI key: a key begins with sk_ and is ASCII without spaces; " +
	"copy it again from https://sikkerapi.com"

// setAPIKey takes the key from the variable. No problem repeats any part of it.
func setAPIKey(l *loader, key string) string {
	file := l.values[viperKey(apiKeyFile)]
	switch {
	case key != "" && file != "":
		return " and " + apiKeyFile + " are both set: keep one of them"
	case key == "" && file == "":
		text := " is not set: set it, or " + apiKeyFile + ", to your key from https://sikkerapi.com"
		if name := cmp.Or(l.meant[apiKey], l.meant[apiKeyFile]); name != "" {
			text += " (" + name + " is set, but is not read)"
		}
		return text
	case key == "":
		return "" // setAPIKeyFile reads it
	}
	return l.takeKey(key)
}

// setAPIKeyFile takes the key from a file, if no other key is set. A problem repeats the value only
// if it is an absolute path, because a key may have been put here by mistake.
func setAPIKeyFile(l *loader, path string) string {
	if path == "" || l.values[viperKey(apiKey)] != "" {
		return ""
	}
	key, public, err := readKey(path)
	if err != nil {
		const be = "a file that holds the key and can be read"
		if !filepath.IsAbs(path) {
			return fmt.Sprintf(": must be the path of %s (%v)", be, err)
		}
		return fmt.Sprintf("%s (%v)", must(path, be), err)
	}
	if public {
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf(
			"%s: every user can read %s: chmod 600 it, or set mode: 0400 for the Docker secret", apiKeyFile,
			quote(path)))
	}
	l.key = key
	return l.takeKey(key)
}

func (l *loader) takeKey(key string) string {
	odd := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r > unicode.MaxASCII }
	if !strings.HasPrefix(key, keyPrefix) || key == keyPrefix || strings.ContainsFunc(key, odd) {
		return noKey
	}
	l.cfg.APIKey = NewSecret(key)
	return ""
}

// bareKey returns a key without text that is often copied with it: the name of the header or
// variable before it, quotes, also several, and a comma or semicolon.
func bareKey(text string) string {
	for before := "\x00"; text != before; {
		before = text
		for _, word := range []string{"export", apiKey, "=", "authorization", "bearer", ":"} {
			if rest := text[min(len(text), len(word)):]; strings.EqualFold(text[:len(text)-len(rest)], word) {
				text = rest
			}
		}
		text = strings.TrimRight(unquoted(text), ",;")
	}
	return text
}

// keyIn returns the key in the content of a file. The text is UTF-8, or UTF-16 as some Windows
// programs write it. The key is its only line besides comments, or a line of an environment file.
func keyIn(content []byte) string {
	text := string(content)
	orders := map[string]binary.ByteOrder{"\xff\xfe": binary.LittleEndian, "\xfe\xff": binary.BigEndian}
	for mark, order := range orders {
		if strings.HasPrefix(string(content), mark) {
			units := make([]uint16, (len(content)-2)/2)
			for i := range units {
				units[i] = order.Uint16(content[2+2*i:])
			}
			text = string(utf16.Decode(units))
		}
	}
	var lines []string
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.TrimPrefix(trimmed(line), "export "), "=")
		if trimmed(name) == apiKey {
			return bareKey(unquoted(line))
		}
		if line = unquoted(line); line != "" {
			lines = append(lines, line)
		}
	}
	return bareKey(strings.Join(lines, "\n"))
}

// holdsKey reports whether text is a key or contains the configured one. Case does not matter:
// problems show some values in lower case.
func (l *loader) holdsKey(text string) bool {
	return strings.HasPrefix(bareKey(text), keyPrefix) ||
		len(l.key) >= minKey && strings.Contains(strings.ToLower(text), strings.ToLower(l.key))
}

// readKey reads the key file and reports whether every user may read it. Its errors do not repeat
// the path.
func readKey(path string) (key string, public bool, err error) {
	f, err := untrusted.Open(path)
	if err != nil {
		return "", false, reason(err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return "", false, reason(err)
	}
	text, err := io.ReadAll(untrusted.NewReader(f, maxKeyFile, fmt.Errorf("it has more than %d bytes", maxKeyFile)))
	switch key = keyIn(text); {
	case err != nil:
		return "", false, reason(err)
	case key == "":
		return "", false, errEmpty
	}
	return key, info.Mode().Perm()&0o004 != 0, nil
}

var errEmpty = errors.New("it is empty")

// reason returns err without the path. A problem shows the path quoted and shortened, or not at
// all.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
