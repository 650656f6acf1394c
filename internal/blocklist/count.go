package blocklist

import "fmt"

// Entries returns the number of entries n with its noun: "1 entry", "2 entries".
func Entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
