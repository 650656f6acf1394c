package sikkerapi

import (
	"fmt"
	"strconv"
	"strings"
)

// Category is the reason for a report. The zero value is no category and is not sent.
type Category int

// The categories with the numbers of SikkerAPI.
const (
	BruteForce    Category = 1
	PortScan      Category = 2
	DDoS          Category = 3
	WebExploit    Category = 4
	SQLInjection  Category = 5
	Phishing      Category = 6
	Spam          Category = 7
	BadBot        Category = 8
	ExploitedHost Category = 9
	Malware       Category = 10
	DNSAbuse      Category = 11
	OpenProxy     Category = 12
	IoTTargeted   Category = 13
	Spoofing      Category = 14
	Fraud         Category = 15
	Other         Category = 16
)

// names returns the name of each category at the index of its number.
func names() [Other + 1]string {
	return [...]string{
		BruteForce: "brute_force", PortScan: "port_scan", DDoS: "ddos", WebExploit: "web_exploit",
		SQLInjection: "sql_injection", Phishing: "phishing", Spam: "spam", BadBot: "bad_bot",
		ExploitedHost: "exploited_host", Malware: "malware", DNSAbuse: "dns_abuse", OpenProxy: "open_proxy",
		IoTTargeted: "iot_targeted", Spoofing: "spoofing", Fraud: "fraud", Other: "other",
	}
}

// ParseCategory parses the name or the number of a category.
func ParseCategory(s string) (Category, error) {
	for i, name := range names() {
		if c := Category(i); c.Valid() && (s == name || s == strconv.Itoa(i)) {
			return c, nil
		}
	}
	return 0, fmt.Errorf("%.60q is not a category: want a name like port_scan, or a number from 1 to %d", s, int(Other))
}

// Valid reports whether the category is one of the 16.
func (c Category) Valid() bool { return c >= BruteForce && c <= Other }

// String returns the name, or "Category(n)" if there is none.
func (c Category) String() string {
	if !c.Valid() {
		return fmt.Sprintf("Category(%d)", int(c))
	}
	return names()[c]
}

// MarshalText returns the name, also in JSON.
func (c Category) MarshalText() ([]byte, error) {
	if !c.Valid() {
		return nil, fmt.Errorf("%d is not a category", int(c))
	}
	return []byte(c.String()), nil
}

// UnmarshalText parses the name or the number.
func (c *Category) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCategory(string(text))
	return err
}

// UnmarshalJSON parses the name or the number, with or without quotes.
func (c *Category) UnmarshalJSON(raw []byte) error {
	return c.UnmarshalText([]byte(strings.Trim(string(raw), `"`)))
}
