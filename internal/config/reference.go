package config

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Usage returns the variables for `sikkerguard --help`.
func Usage() string {
	var b strings.Builder
	b.WriteString("Variables:\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range variables() {
		value := v.def
		if value == "" {
			value = "-"
		}
		// A Builder accepts every write.
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", v.name, value, strings.ReplaceAll(v.rule.accepted, "`", ""))
	}
	_ = w.Flush()
	return strings.TrimRight(b.String(), "\n")
}

// Reference returns docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(referenceHead, "'", "`"))
	b.WriteString("| variable | default | accepted | example | meaning |\n|---|---|---|---|---|\n")
	for _, v := range variables() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n",
			v.name, code(v.def), v.rule.accepted, code(v.example), v.text)
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

// code returns value as Markdown code, or "" if it is empty.
func code(value string) string {
	if value == "" {
		return ""
	}
	return "`" + value + "`"
}

// referenceHead and referenceTail have ' for every backquote.
const referenceHead = `# Configuration

SikkerGuard is configured by environment variables. Only the API key is required. All variables are checked together
at the start. One message lists every problem, with the value, the accepted values and the remedy. An empty value
counts as not set. Environment files leave quotes and comments in a value that a shell would remove. So spaces and
quotes around a value do not matter, nor does a comment, which begins with # after a space. Numbers are decimal,
without sign or leading zero. For true and false you may also write 1 and 0, yes and no, on and off. Case does not
matter in words.

If a variable begins with SIKKER_ and is not in this table, it is also a problem, so a misspelt variable is not
silently ignored. The message suggests the nearest known name, and never shows the value, which may be the key.

'make docs' generates this page from the table that the agent uses.

`

const referenceTail = `
## The API key

Get a key at https://sikkerapi.com and set either 'SIKKER_API_KEY' or 'SIKKER_API_KEY_FILE', not both. The key is
never shown in the log, in an error or in '/status'. If another value contains it, that value is not shown. With
Docker secrets:

'''yaml
services:
  sikkerguard:
    environment:
      SIKKER_API_KEY_FILE: /run/secrets/sikker_api_key
    secrets: [sikker_api_key]
secrets:
  sikker_api_key:
    file: ./sikker_api_key.txt   # chown root, chmod 600: root in the container cannot read files of another user
'''

The file contains only the key and has at most 4096 bytes. Spaces, newlines and quotes around the key do not matter,
nor does the word 'Bearer' before it. If every user can read the file, the agent starts and logs a warning.

## Proxy

If the API can be reached only through an HTTP proxy, set 'HTTPS_PROXY' to it, for example
'http://proxy.example:3128', and 'NO_PROXY' to the hosts that are reached without it. The agent never blocks the
address of the proxy, nor that of the API.

## Allowlist

Sources on the allowlist are never blocked, whichever list has them and however wide the entry that covers them:
'SIKKER_WHITELIST=198.51.100.7,2001:db8::/32'. The agent adds addresses that the host depends on: gateways,
resolvers, its own addresses, private ranges, loopback, the API and a proxy on the way to it. The allowlist does not
override other firewall rules: a packet that another rule drops stays dropped.

An entry is an address or a network. Commas, semicolons, spaces or newlines separate entries. Host bits are cleared
('203.0.113.9/24' is '203.0.113.0/24'). An IPv4 address in IPv6 form is the IPv4 address. Names and addresses with a
zone ('fe80::1%eth0') are refused. If all entries together cover more than half of the public IPv4 addresses, or of
the IPv6 addresses in use, they are refused, because they would disable the firewall. If the allowlist covers every
entry of the lists, the status is degraded.

## Custom blacklist

The file has one IPv4 or IPv6 address or network per line. '#', ';' and '//' begin a comment. The text is UTF-8 or
UTF-16, and may be compressed by gzip.

'''
# scanners of last night
203.0.113.9
198.51.100.0/24   # a whole network
2001:db8:bad::/48
'''

The file is read at the start, at each pull, and at once after 'kill -HUP'. Reading it needs no network. While the
API has not provided a list yet, only the file is enforced.

- A bad line is skipped. The log shows the first bad lines with their numbers, and '/status' counts them.
- A network wider than /8 (IPv4) or /16 (IPv6) is a bad line: it would block a large part of the Internet. An IPv4
  network in IPv6 form (IPv4-mapped, NAT64, 6to4) is as wide as the IPv4 network.
- A last line without a newline may be half of an address. It is accepted once the file has not changed for five
  seconds.

**The previous list stays active**, also after a restart, if the file cannot be read, is empty, has no good line,
has more bad lines than good ones (a page instead of a list), is not text, has more than 64 MiB, or covers more than
a quarter of the public IPv4 addresses or of the IPv6 addresses in use. The agent logs this once, and the condition
'custom-list' holds until the file is accepted again. **To empty the list, leave only a comment in the file**, such
as '# none'. If a list shrinks to less than half, it is accepted, and the agent logs a warning.

At the first start the file must exist and be readable. At later starts the agent uses the copy in the
state directory if the file is missing or cannot be read.

Addresses on the allowlist and special-purpose addresses ([security.md](security.md)) are never blocked, whatever
the file contains.

## Port map

The log shows the service of a port. 'SIKKER_PORT_MAP=minecraft=25565;ssh=2022' adds the service minecraft and adds
a port to ssh. A port in this variable loses its default name. A port has only one name. A name has up to 32 of the
characters a–z, 0–9 and -. A port without a service is shown as 'port-4444'.

`
