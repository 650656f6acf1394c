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
		value := v.def
		if value == "" {
			value = "-"
		}
		// A Builder takes every write.
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", v.name, value, strings.ReplaceAll(v.rule.accepted, "`", ""))
	}
	_ = w.Flush()
	return strings.TrimRight(b.String(), "\n")
}

// Reference is docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	b.WriteString("| variable | default | accepted | example | meaning |\n|---|---|---|---|---|\n")
	for _, v := range variables() {
		note := ""
		if v.note != "" {
			note = " *This version: " + v.note + ".*"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s%s |\n", v.name, code(v.def), v.rule.accepted, code(v.example), v.text, note)
	}
	b.WriteString(strings.ReplaceAll(referenceTail, "'", "`"))
	ports, _ := parsePorts("")
	names, byName := ports.services()
	b.WriteString("| service | ports |\n|---|---|\n")
	for _, name := range names {
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(byName[name]), " ", ", "), "[]")
		fmt.Fprintf(&b, "| %s | %s |\n", name, list)
	}
	return b.String()
}

// code is a value as Markdown shows it, and nothing when there is none.
func code(value string) string {
	if value == "" {
		return ""
	}
	return "`" + value + "`"
}

const referenceHead = `# Configuration

Everything is configured by environment variables, and nothing but the API key is needed. All of them are checked at the
start, together: one message names every problem, with the value as it was, what is accepted and what to do. An empty
value counts as not set. Files of variables leave quotes and comments in a value that a shell would remove: spaces and quotes
around a value do not matter, nor does a comment, which begins with # behind a space. Numbers are decimal, without sign or
leading zero; true and false may be written 1 and 0, yes and no, on and off; upper and lower case do not matter in words.

A variable that begins with SIKKER_ and is not in this table is a problem too, so that a misspelt one is not silently
ignored: the message names the nearest known one, and never shows the value, which may be the key.

This page is generated from the table that the agent itself uses (make docs).

`

// referenceTail has ' for every backquote.
const referenceTail = `
## The API key

Get one at https://sikkerapi.com and set either 'SIKKER_API_KEY' or 'SIKKER_API_KEY_FILE', not both. The key is never shown:
not in the log, not in an error, not in '/status'; a value that holds it is not repeated either. With Docker secrets:

'''yaml
services:
  sikkerguard:
    environment:
      SIKKER_API_KEY_FILE: /run/secrets/sikker_api_key
    secrets: [sikker_api_key]
secrets:
  sikker_api_key:
    file: ./sikker_api_key.txt   # chown root, chmod 600: root in the container reads no file of another user
'''

The file holds the key alone, 4096 bytes at most; spaces, newlines and quotes around it do not matter, nor does the word
'Bearer' before it. When every user can read it, the agent starts and the log says so.

## Proxy

Where the API is reached by an HTTP proxy alone, 'HTTPS_PROXY' names it, as in 'http://proxy.example:3128', and 'NO_PROXY'
what is reached without. The agent protects the address of the proxy as it does that of the API.

## Whitelist

Sources that are never blocked, whatever list names them and however wide the entry that covers them:
'SIKKER_WHITELIST=198.51.100.7,2001:db8::/32'. They are added to what the agent protects by itself: gateways, resolvers,
addresses of the host, private ranges, loopback, the API and a proxy on the way to it. The whitelist opens nothing: what
another firewall rule drops stays dropped.

An entry is an address or a network. Commas, semicolons, spaces or newlines separate entries. Host bits are cleared
('203.0.113.9/24' is '203.0.113.0/24'), and an IPv4 address in IPv6 form is the IPv4 address. Names and addresses with a zone
('fe80::1%eth0') are refused. So are entries that cover more than half of the public IPv4 addresses, or of the IPv6 addresses
in use, together: they would disable the firewall. If the whitelist covers every entry of the lists, the status is degraded.

## Custom blacklist

One address or network a line, IPv4 or IPv6; '#', ';' and '//' begin a comment. The text is UTF-8 or UTF-16, and may be
compressed by gzip.

'''
# scanners of last night
203.0.113.9
198.51.100.0/24   # a whole network
2001:db8:bad::/48
'''

The file is read at the start, at each pull, and at once with 'kill -HUP'. It waits for no network and is enforced alone while
the API has given no list yet.

- A bad line is left out. The log names the first ones with their numbers, and '/status' counts them.
- A network wider than /8 (IPv4) or /16 (IPv6) is a bad line: it would block a good part of the Internet. IPv4 networks in IPv6
  form (IPv4-mapped, NAT64, 6to4) are as wide as the IPv4 network.
- A last line that does not end with a newline may be half of an address. It is taken when the file has stayed as it is for five
  seconds.

**What the file held before stays**, also over a restart, if the file cannot be read, is empty, has no good line or more bad
lines than good ones (a page instead of a list), is no text, has more than 64 MiB, or covers more than a quarter of the public
IPv4 addresses or of the IPv6 addresses in use. The log says so once, and the condition 'custom-list' holds until the file is
taken again. **To empty the list, leave a comment alone in the file**, such as '# none'. A list that shrinks to less than half
is taken, and the log says so.

At the first start the file must be there and readable. Later starts have the copy in the state directory.

Never blocked, whatever a list says: what the whitelist holds, and special-purpose addresses ([security.md](security.md)).

## Port map

The log names a port after its service: 'SIKKER_PORT_MAP=minecraft=25565;ssh=2022' adds one and extends another; a port
that is given here no longer has its default name, and has one name only. A name is up to 32 of a–z, 0–9 and -. Any other
port prints as 'port-4444'.

`
