package config

import (
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"
)

// unquoted returns a value without the parts that only a shell would remove and that files of
// variables leave in it: spaces, quotes around it, and a comment, which begins with # behind a space.
// A value of several lines keeps its comments.
func unquoted(value string) string {
	value = trimmed(value)
	for opening, closing := range map[string]string{`"`: `"`, "'": "'", "“": "”", "‘": "’"} {
		rest, ok := strings.CutPrefix(value, opening)
		if !ok {
			continue
		}
		inside, after, ok := strings.Cut(rest, closing)
		if after = trimmed(after); ok && (after == "" || after[0] == '#') {
			return trimmed(inside)
		}
	}
	if strings.ContainsAny(value, "\n\r") {
		return value
	}
	for i := range value {
		if value[i] == '#' && (i == 0 || value[i-1] == ' ' || value[i-1] == '\t') {
			return trimmed(value[:i])
		}
	}
	return value
}

// trimmed returns a text without the spaces around it, and without characters that cannot be seen.
func trimmed(text string) string {
	return strings.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' || r == '\u200b' })
}

// maxTypos is by how many letters a name may differ from that of a variable and still be meant for
// it.
const maxTypos = 2

// meant returns the names that do not begin with SIKKER_ and are hardly anything but a misspelt
// variable, by the variable.
func meant(names []string) map[string]string {
	found := map[string]string{}
	for _, name := range names {
		upper := strings.ToUpper(name)
		if !strings.HasPrefix(upper, "S") {
			continue
		}
		other := upper
		for _, product := range []string{"SIKKERGUARD_", "SIKKERAPI_"} {
			if rest, ok := strings.CutPrefix(upper, product); ok {
				other = prefix + rest
			}
		}
		for _, v := range variables() {
			if min(levenshtein.ComputeDistance(upper, v.name), levenshtein.ComputeDistance(other, v.name)) <= maxTypos {
				found[v.name] = name
			}
		}
	}
	return found
}

// warnOfNames warns of a name that is not read and that a variable is missing for. For the key, a
// problem says so.
func (l *loader) warnOfNames() {
	for _, v := range variables() {
		if name, ok := l.meant[v.name]; ok && l.values[viperKey(v.name)] == v.def && v.name != apiKey && v.name != apiKeyFile {
			l.cfg.Warnings = append(l.cfg.Warnings, name+" is not read; did you mean "+v.name+"?")
		}
	}
}
