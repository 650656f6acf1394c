package config

import (
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
)

const prefix = "SIKKER_"

// variable is one row of the table that everything here is made of.
type variable struct {
	name    string
	def     string // as it would be written; empty: none
	rule    rule   // what may be given
	text    string // what it means, Markdown
	example string // a value
	note    string // what this version does not do with it yet
}

// viperKey is what viper calls a variable.
func viperKey(name string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// variables is the table, in the order of the documentation and of problems. The two of the key come first, so that no
// later one repeats it.
func variables() []variable {
	return append(principal(), special()...)
}

// principal are the variables that an operator may well want.
func principal() []variable {
	return []variable{
		{
			name: apiKey, rule: rule{"a key that begins with `sk_`", setAPIKey},
			text: "SikkerAPI key. Required, [here or in a file](#the-api-key).",
		},
		{
			name: apiKeyFile, rule: rule{"path of a file", setAPIKeyFile},
			text: "A file that holds the key, such as a Docker or Kubernetes secret.", example: "/run/secrets/sikker_api_key",
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
			name: "SIKKER_REPORT_ENABLED", def: "true", text: "Report blocked addresses to SikkerAPI.", example: "false",
			rule: boolean(func(c *Config) *bool { return &c.ReportEnabled }),
		},
		{
			name: "SIKKER_REPORT_INTERVAL", def: "30", text: "Time between batches of reports.", example: "60",
			rule: minutes(1, 1440, func(c *Config) *time.Duration { return &c.ReportInterval }),
		},
		{
			name: "SIKKER_WHITELIST", rule: rule{"addresses and networks, separated by commas, spaces or newlines", setWhitelist},
			text: "[Never block these](#whitelist).", example: "198.51.100.7,2001:db8::/32",
		},
		{
			name: "SIKKER_PORT_MAP", rule: rule{"`name=port,port;name=port`", setPortMap},
			text: "Names for ports in the log and in reports, merged with the [defaults](#port-map).", example: "minecraft=25565;ssh=2022",
		},
		{
			name: "SIKKER_DRY_RUN", def: "false", text: "Say what would be blocked, and touch nothing.", example: "true",
			rule: boolean(func(c *Config) *bool { return &c.DryRun }),
		},
		{
			name: "SIKKER_HEALTH_PORT", def: "8080", text: "Port of `/healthz`, `/status` and `/metrics`, on 127.0.0.1 and [::1].", example: "9100",
			rule: number(1, 65535, "", func(c *Config) *uint16 { return &c.HealthPort }),
		},
		{
			name: "SIKKER_CUSTOM_BLACKLIST", rule: rule{"absolute path of a file", setCustomBlacklist},
			text: "A file of addresses and networks to [block as well](#custom-blacklist).", example: "/etc/sikkerguard/blacklist.txt",
		},
	}
}

// special are the variables that few need.
func special() []variable {
	return []variable{
		{
			name: "SIKKER_API_URL", def: "https://api.sikkerapi.com", text: "Where SikkerAPI is.", example: "http://127.0.0.1:9080",
			rule: rule{"https URL; plain http only to a loopback or private address", setAPIURL},
		},
		{
			name: "SIKKER_BACKEND", def: "auto", example: "nftables",
			rule: oneOf(func(c *Config) *Backend { return &c.Backend }, BackendAuto, BackendNFTables, BackendIPTables),
			text: "How the list is put into the kernel. `auto`: by nftables, or where the kernel has no nf_tables, by iptables. " +
				"`iptables`: by the programs ipset and iptables, of the packages of that name.",
		},
		{
			name: "SIKKER_ON_CRASH", def: "release", example: "keep",
			rule: oneOf(func(c *Config) *OnCrash { return &c.OnCrash }, OnCrashRelease, OnCrashKeep),
			text: "What becomes of the rules when the agent is killed. `release`: they go with it, which iptables cannot do. `keep`: they stay, and the next start " +
				"takes them over; until then `sikkerguard cleanup` removes them.",
		},
		{
			name: "SIKKER_NFLOG_GROUP", def: "100", text: "NFLOG group that dropped packets are copied to.", example: "200",
			rule: number(1, 65535, "", func(c *Config) *uint16 { return &c.NFLOGGroup }),
		},
		{
			name: "SIKKER_LOG_RATE", def: "10000", example: "1000",
			text: "Dropped packets of each address family that may be copied for the log. The drop itself has no limit.",
			rule: number(1, 1_000_000, "packets a second", func(c *Config) *uint32 { return &c.LogRate }),
		},
		{
			name: "SIKKER_STATE_DIR", def: "/var/lib/sikkerguard", rule: rule{"absolute path", setStateDir}, example: "/srv/sikkerguard",
			text: "Where the last good list, the database and the control socket are kept, for root alone.",
		},
		{
			name: "SIKKER_LOG_LEVEL", def: "info", text: "The least severe event that is logged.", example: "debug",
			rule: oneOf(func(c *Config) *LogLevel { return &c.LogLevel }, LogDebug, LogInfo, LogWarn, LogError),
		},
		{
			name: "SIKKER_LOG_FORMAT", def: "console", text: "How an event is written.", example: "json",
			rule: oneOf(func(c *Config) *LogFormat { return &c.LogFormat }, LogConsole, LogJSON),
		},
	}
}

// unknown says what to do about a name that is no variable. Its value may be the key under a misspelt name, so it is not
// shown; nor is what of the name is no name, as in "SIKKER_API_KEY: sk_…".
func (l *loader) unknown(name string) Problem {
	if l.holdsKey(name[len(prefix):]) {
		return Problem{prefix + "…", " has an API key in its name: set " + apiKey + " to the key, and remove this"}
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
	return Problem{show, " is not a variable of SikkerGuard: remove it (docs/configuration.md has them all)"}
}

// nameLetters are what a name that is shown consists of.
const nameLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

// nearest is the variable that own, a name without the prefix, is likely to mean, or empty. The prefix is left out because
// it would make every name look alike.
func nearest(own string) string {
	name, least := "", len(own)/2+1 // more than half of it wrong is another name
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
