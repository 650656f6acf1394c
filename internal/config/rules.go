package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// rule is the check of a variable. The documented and the enforced limits come from one place.
type rule struct {
	accepted string // accepted values for the documentation, Markdown
	// set checks a value and puts it into the configuration. problem follows the name of the
	// variable and contains the accepted values. It is empty if the value is valid.
	set func(l *loader, value string) (problem string)
}

// number accepts only decimal digits. Other programs would read "010" and "0x10" as other numbers.
func number[T int | uint16 | uint32](least, most int, unit string, field func(*Config) *T) rule {
	r := rule{accepted: fmt.Sprintf("%d–%d", least, most)}
	what := "a whole number"
	if unit != "" {
		r.accepted += " " + unit
		what += " of " + unit
	}
	r.set = func(l *loader, value string) string {
		n, ok := decimal(value)
		if !ok || n < least || n > most {
			return must(value, fmt.Sprintf("%s from %d to %d%s", what, least, most, hint(value, unit)))
		}
		*field(&l.cfg) = T(n)
		return ""
	}
	return r
}

// hint returns how to write a number that is given in another form, or "".
func hint(value, unit string) string {
	short := strings.ToLower(strings.ReplaceAll(value, " ", ""))
	if days, ok := strings.CutSuffix(short, "d"); ok {
		if n, ok := decimal(days); ok && n < 1000 {
			short = fmt.Sprintf("%dh", 24*n)
		}
	}
	d, err := time.ParseDuration(short)
	switch {
	case unit == "minutes" && err == nil && d > 0 && d%time.Minute == 0:
		return fmt.Sprintf("; %s is %d", quote(value), d/time.Minute)
	case strings.ContainsFunc(value, func(r rune) bool { return r > unicode.MaxASCII && unicode.IsDigit(r) }):
		return ", in the digits 0 to 9"
	}
	return ""
}

func minutes(least, most int, field func(*Config) *time.Duration) rule {
	var n int
	r := number(least, most, "minutes", func(*Config) *int { return &n })
	check := r.set
	r.set = func(l *loader, value string) string {
		problem := check(l, value)
		*field(&l.cfg) = time.Duration(n) * time.Minute
		return problem
	}
	return r
}

// decimal parses a number in the form in which strconv writes it: no sign, no leading zero.
func decimal(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == s
}

func boolean(field func(*Config) *bool) rule {
	return rule{accepted: "true, false", set: func(l *loader, value string) string {
		switch strings.ToLower(value) {
		case "true", "1", "yes", "on":
			*field(&l.cfg) = true
		case "false", "0", "no", "off":
			*field(&l.cfg) = false
		default:
			return must(value, "true or false")
		}
		return ""
	}}
}

func oneOf[T ~string](field func(*Config) *T, accepted ...T) rule {
	names := make([]string, len(accepted))
	for i, a := range accepted {
		names[i] = string(a)
	}
	list := strings.Join(names, ", ")
	return rule{accepted: list, set: func(l *loader, value string) string {
		v := T(strings.ToLower(value))
		if !slices.Contains(accepted, v) {
			return must(value, "one of "+list)
		}
		*field(&l.cfg) = v
		return ""
	}}
}

// maxShown is the number of characters of a bad value that a problem repeats.
const maxShown = 80

// quote returns value in the form in which a problem shows it: on one line and shortened if it is
// long.
func quote(value string) string {
	if short := fmt.Sprintf("%.*s", maxShown, value); short != value {
		return strconv.Quote(short) + "…"
	}
	return strconv.Quote(value)
}

// must returns the problem of a value: the value and the requirement be.
func must(value, be string) string { return "=" + entry(value, be) }

// entry is like must, for one entry of a list.
func entry(value, be string) string { return quote(value) + ": must be " + be }

// entries returns the problem of a list with bad entries, or "" if there are none.
func entries(bad []string) string {
	if len(bad) == 0 {
		return ""
	}
	return ": " + strings.Join(bad, "; ")
}
