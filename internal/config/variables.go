package config

import (
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
)

const prefix = "SIKKER_"

// variable is one row of the table that drives this package.
type variable struct {
	name    string
	def     string // in the form of a value; empty if there is none
	rule    rule   // accepted values
	text    string // meaning, Markdown
	example string // an accepted value
}

// viperKey returns the name of a variable in viper.
func viperKey(name string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// variables returns the table in the order of the documentation and of problems. The two variables
// of the key come first, so that the problem of a later one does not repeat the key.
func variables() []variable {
	return append(principal(), special()...)
}

// principal returns the variables that many operators need.
func principal() []variable {
	return []variable{
		{
			name: apiKey, rule: rule{"a key that begins with `sk_`", setAPIKey},
			text: "SikkerAPI key. Required, [here or in a file](#the-api-key).",
		},
		{
			name: apiKeyFile, rule: rule{"path of a file", setAPIKeyFile},
			text:    "File that contains the key, such as a Docker or Kubernetes secret.",
			example: "/run/secrets/sikker_api_key",
		},
		{
			name: "SIKKER_SCORE_MIN", def: "50", text: "Lowest confidence score to block.", example: "80",
			rule: number(1, 100, "", func(c *Config) *int { return &c.ScoreMin }),
		},
		{
			name: "SIKKER_PULL_INTERVAL", def: "1440", text: "Time between pulls of the list.", example: "360",
			rule: minutes(60, 1440, func(c *Config) *time.Duration { return &c.PullInterval }),
		},
		{
			name: "SIKKER_REPORT_ENABLED", def: "true", text: "Report blocked addresses to SikkerAPI.",
			example: "false",
			rule:    boolean(func(c *Config) *bool { return &c.ReportEnabled }),
		},
		{
			name: "SIKKER_REPORT_INTERVAL", def: "30", text: "Time between batches of reports.", example: "60",
			rule: minutes(1, 1440, func(c *Config) *time.Duration { return &c.ReportInterval }),
		},
		{
			name: "SIKKER_WHITELIST", rule: rule{
				"addresses and networks, separated by commas, spaces or newlines", setWhitelist,
			},
			text: "[Addresses never to block](#allowlist).", example: "198.51.100.7,2001:db8::/32",
		},
		{
			name: "SIKKER_PORT_MAP", rule: rule{"`name=port,port;name=port`", setPortMap},
			text:    "Names for ports in the log and in reports, merged with the [defaults](#port-map).",
			example: "minecraft=25565;ssh=2022",
		},
		{
			name: "SIKKER_DRY_RUN", def: "false", text: "Log the entries that would be blocked, and change nothing.",
			example: "true",
			rule:    boolean(func(c *Config) *bool { return &c.DryRun }),
		},
		{
			name: "SIKKER_HEALTH_PORT", def: "8080",
			text: "Port of `/healthz`, `/status` and `/metrics`, on 127.0.0.1 and [::1].", example: "9100",
			rule: number(1, 65535, "", func(c *Config) *uint16 { return &c.HealthPort }),
		},
		{
			name: "SIKKER_CUSTOM_BLACKLIST", rule: rule{"absolute path of a file", setCustomBlacklist},
			text:    "File of addresses and networks to [block in addition](#custom-blacklist).",
			example: "/etc/sikkerguard/blacklist.txt",
		},
	}
}

// special returns the variables that few operators need.
func special() []variable {
	return []variable{
		{
			name: "SIKKER_API_URL", def: "https://api.sikkerapi.com", text: "Address of SikkerAPI.",
			example: "http://127.0.0.1:9080",
			rule:    rule{"https URL; plain http only to a loopback or private address", setAPIURL},
		},
		{
			name: "SIKKER_BACKEND", def: "auto", example: "nftables",
			rule: oneOf(func(c *Config) *Backend { return &c.Backend }, BackendAuto, BackendNFTables, BackendIPTables),
			text: "Kernel interface that enforces the list. `auto`: nftables, or iptables if the kernel has no " +
				"nf_tables. `iptables`: the programs ipset and iptables, which must be installed.",
		},
		{
			name: "SIKKER_ON_CRASH", def: "release", example: "keep",
			rule: oneOf(func(c *Config) *OnCrash { return &c.OnCrash }, OnCrashRelease, OnCrashKeep),
			text: "Fate of the rules if the agent is killed. `release`: the kernel removes them, which it cannot do " +
				"with iptables. `keep`: they stay active, and the next start takes them over; until then " +
				"`sikkerguard cleanup` removes them.",
		},
		{
			name: "SIKKER_NFLOG_GROUP", def: "100", text: "NFLOG group that dropped packets are copied to.",
			example: "200",
			rule:    number(1, 65535, "", func(c *Config) *uint16 { return &c.NFLOGGroup }),
		},
		{
			name: "SIKKER_LOG_RATE", def: "10000", example: "1000",
			text: "Limit of packets per address family that are copied for the log: the first from each source to " +
				"each port. Beyond it the kernel counts by source alone.",
			rule: number(1, 1_000_000, "packets a second", func(c *Config) *uint32 { return &c.LogRate }),
		},
		{
			name: "SIKKER_STATE_DIR", def: "/var/lib/sikkerguard", rule: rule{"absolute path", setStateDir},
			example: "/srv/sikkerguard",
			text:    "Directory of the last good list, the database and the control socket. Only root may read it.",
		},
		{
			name: "SIKKER_LOG_LEVEL", def: "info", text: "Least severe level that is logged.", example: "debug",
			rule: oneOf(func(c *Config) *LogLevel { return &c.LogLevel }, LogDebug, LogInfo, LogWarn, LogError),
		},
		{
			name: "SIKKER_LOG_FORMAT", def: "console", text: "Format of log lines.", example: "json",
			rule: oneOf(func(c *Config) *LogFormat { return &c.LogFormat }, LogConsole, LogJSON),
		},
	}
}

// unknown returns the problem of an unknown name. Its value is not shown, because it may be the key
// under a misspelt name. Neither is a part of the name that cannot be one, as in "SIKKER_API_KEY:
// sk_…".
func (l *loader) unknown(name string) Problem {
	if l.holdsKey(name[len(prefix):]) {
		return Problem{
			prefix + "…", " has an API key in its name: set " + apiKey + " to the key and remove this variable",
		}
	}
	letters := len(name) - len(strings.TrimLeft(name, nameLetters))
	show := name[:min(letters, maxShown)]
	near := nearest(strings.TrimPrefix(strings.ToUpper(show), prefix))
	if show != name {
		show += "…"
	}
	if near != "" {
		return Problem{show, " is not a variable of SikkerGuard; did you mean " + near + "?"}
	}
	return Problem{show, " is not a variable of SikkerGuard: remove it (docs/configuration.md lists all of them)"}
}

// nameLetters are the characters of a name that is shown.
const nameLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

// nearest returns the variable that own, a name without the prefix, probably means, or "". Names
// are compared without the prefix, which would make all of them similar.
func nearest(own string) string {
	name, least := "", len(own)/2+1 // if more than half of it is wrong, it is another name
	for _, v := range variables() {
		if d := levenshtein.ComputeDistance(own, strings.TrimPrefix(v.name, prefix)); d < least {
			name, least = v.name, d
		}
	}
	if name == "" && (strings.HasSuffix(own, "KEY") || strings.HasSuffix(own, "TOKEN")) {
		return apiKey
	}
	return name
}
