package config

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Usage is the variables for `sikkerguard --help`.
func Usage() string {
	var b strings.Builder
	b.WriteString("Variables:\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range variables() {
		value := v.Default
		if value == "" {
			value = "-"
		}
		// A Builder takes every write.
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", v.Name, value, strings.ReplaceAll(v.Accepted, "`", ""))
	}
	_ = w.Flush()
	return strings.TrimRight(b.String(), "\n")
}

// Reference is docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	b.WriteString("| variable | default | accepted | meaning |\n|---|---|---|---|\n")
	for _, v := range variables() {
		def, note := "", ""
		if v.Default != "" {
			def = "`" + v.Default + "`"
		}
		if v.Note != "" {
			note = " *This version: " + v.Note + ".*"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s%s |\n", v.Name, def, v.Accepted, v.Text, note)
	}
	b.WriteString(referenceTail)
	ports, _ := parsePorts("")
	names, byName := ports.services()
	b.WriteString("| service | ports |\n|---|---|\n")
	for _, name := range names {
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(byName[name]), " ", ", "), "[]")
		fmt.Fprintf(&b, "| %s | %s |\n", name, list)
	}
	return b.String()
}

const referenceHead = `# Configuration

Everything is configured by environment variables, and nothing but the API key is needed. All of them are checked at the
start, together: one message names every problem, with the value as it was and what is accepted. A variable that begins
with SIKKER_ and is not in this table is a problem too, so that a misspelt one is not silently ignored. An empty value
counts as not set. Numbers are decimal; true and false may be written 1 and 0, yes and no, on and off.

This page is generated from the table that the agent itself uses (make docs).

`

const referenceTail = `
## The API key

The key is never shown: not in the log, not in an error, not in ` + "`/status`" + `. With Docker secrets:

` + "```yaml" + `
services:
  sikkerguard:
    environment:
      SIKKER_API_KEY_FILE: /run/secrets/sikker_api_key
    secrets: [sikker_api_key]
` + "```" + `

The file holds the key alone; spaces and newlines around it do not matter. When every user can read it, the log says so.

## Custom blacklist

One address or network a line, IPv4 or IPv6; ` + "`#` and `;`" + ` begin a comment.

` + "```" + `
# scanners of last night
203.0.113.9
198.51.100.0/24   # a whole network
2001:db8:bad::/48
` + "```" + `

It is read at each pull (at once with ` + "`kill -HUP`" + `) and merged with the API's list. A bad line is left out and named in
the log with its number. Private and other special-purpose addresses are never blocked, nor is what the whitelist holds.
While the API has given no list yet, the file is enforced alone.

## Port map

The log names a port after its service: ` + "`SIKKER_PORT_MAP=minecraft=25565;ssh=2022`" + ` adds one and extends another; a port
that is given here no longer has its default name. Any other port prints as ` + "`port-4444`" + `.

`
