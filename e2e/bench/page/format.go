package page

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// none stands for a figure that was not measured.
const none = "–"

// number formats a figure with two or three digits that mean something.
func number(v float64) string {
	digits := 0
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return none
	case a >= 1000:
		v = math.Round(v/10) * 10
	case a >= 100 || v == math.Trunc(v):
	case a >= 10:
		digits = 1
	default:
		digits = 2
	}
	return thousands(strconv.FormatFloat(v, 'f', digits, 64))
}

// thousands adds commas to a whole number, or to the whole part of another.
func thousands(s string) string {
	whole, rest, _ := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		rest = "." + rest
	}
	return sign + whole + rest
}

func ratio(v float64, ok bool) string {
	if !ok {
		return none
	}
	return fmt.Sprintf("%.2f", v)
}

func percent(v float64) string {
	if v > 99.99 && v < 100 {
		return "99.99" // not all
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// median formats the median of a contestant in a case.
func median(r *result.Result, c result.Case, who result.Contestant) string {
	v, ok := r.Median(c, who)
	if !ok {
		return none
	}
	return number(v)
}

// table returns a table of Markdown.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(head)
	b.WriteString(strings.Repeat("|---", len(head)) + "|\n")
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// listName names the list of a case.
func listName(c result.Case) string {
	names := map[string]string{"mixed": "mixed", "addresses": "addresses only", "odd": "odd widths"}
	return fmt.Sprintf("%s, %s", names[c.Shape], thousands(strconv.Itoa(c.Entries)))
}
