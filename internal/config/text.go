package config

import (
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"
)

// unquoted returns a value without the parts that a shell would remove and that environment files
// leave in: spaces, quotes around it, and a comment, which begins with # after a space. If a value
// has several lines, its comments stay.
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

// trimmed returns a text without the spaces and invisible characters around it.
func trimmed(text string) string {
	return strings.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' || r == '\u200b' })
}

// maxTypos is the largest number of letters in which a misspelt name may differ from the name of a
// variable.
const maxTypos = 2

// meant returns the names that do not begin with SIKKER_ and are most likely misspelt variables, by
// the variable.
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

// warnOfMisspelt warns of a misspelt name if the variable that it resembles is not set. For the key
// a problem contains the name instead.
func (l *loader) warnOfMisspelt() {
	for _, v := range variables() {
		if name, ok := l.meant[v.name]; ok && l.values[viperKey(v.name)] == v.def && v.name != apiKey &&
			v.name != apiKeyFile {
			l.cfg.Warnings = append(l.cfg.Warnings, name+" is not read; did you mean "+v.name+"?")
		}
	}
}
