package config

import (
	"fmt"
	"strings"

	"github.com/agnivade/levenshtein"
)

const prefix = "SIKKER_"

// Variable is one row of the table that everything here is made of.
type Variable struct {
	Name     string
	Default  string // as it would be written; empty: none
	Accepted string // what may be given
	Text     string // what it means, Markdown
	Note     string // what this version does not do with it yet

	set func(l *loader, value string) (problem string)
}

// key is the variable's name in viper.
func (v Variable) key() string { return strings.ToLower(strings.TrimPrefix(v.Name, prefix)) }

// variables is the table, in the order of the documentation.
func variables() []Variable {
	return []Variable{
		{
			Name: "SIKKER_API_KEY", Accepted: "a key that begins with `sk_`", set: setAPIKey,
			Text: "SikkerAPI key. Required, here or in `SIKKER_API_KEY_FILE`.",
		},
		{
			Name: "SIKKER_API_KEY_FILE", Accepted: "path of a file",
			Text: "A file that holds the key, such as a Docker or Kubernetes secret.",
		},
		{
			Name: "SIKKER_SCORE_MIN", Default: "50", Accepted: "1–100", Text: "Lowest confidence score to block.",
			set: func(l *loader, s string) string { return number(&l.cfg.ScoreMin, s, "a whole number", 1, 100) },
		},
		{
			Name: "SIKKER_PULL_INTERVAL", Default: "1440", Accepted: "60–1440 minutes", Text: "Minutes between pulls of the list.",
			set: func(l *loader, s string) string { return minutes(&l.cfg.PullInterval, s, 60, 1440) },
		},
		{
			Name: "SIKKER_REPORT_ENABLED", Default: "true", Accepted: "true, false", Text: "Report blocked addresses to SikkerAPI.",
			Note: "reports are not sent yet",
			set:  func(l *loader, s string) string { return boolean(&l.cfg.ReportEnabled, s) },
		},
		{
			Name: "SIKKER_REPORT_INTERVAL", Default: "30", Accepted: "1–1440 minutes", Text: "Minutes between batches of reports.",
			Note: "reports are not sent yet",
			set:  func(l *loader, s string) string { return minutes(&l.cfg.ReportInterval, s, 1, 1440) },
		},
		{
			Name: "SIKKER_WHITELIST", Accepted: "addresses and networks, comma-separated", set: setWhitelist,
			Text: "Never block these, as in `198.51.100.7,2001:db8::/32`. Added to what the agent protects by itself: gateways, resolvers, " +
				"own addresses, private ranges, loopback, the API.",
		},
		{
			Name: "SIKKER_PORT_MAP", Accepted: "`name=port,port;name=port`", set: setPortMap,
			Text: "Names for ports in the log, merged with the [defaults](#port-map).",
		},
		{
			Name: "SIKKER_DRY_RUN", Default: "false", Accepted: "true, false", Text: "Say what would be blocked, and touch nothing.",
			set: func(l *loader, s string) string { return boolean(&l.cfg.DryRun, s) },
		},
		{
			Name: "SIKKER_HEALTH_PORT", Default: "8080", Accepted: "1–65535",
			Text: "Port of `/healthz` and `/status`, on 127.0.0.1 and [::1].",
			set:  func(l *loader, s string) string { return number(&l.cfg.HealthPort, s, "a port", 1, 65535) },
		},
		{
			Name: "SIKKER_CUSTOM_BLACKLIST", Accepted: "absolute path of a file", set: setCustomBlacklist,
			Text: "A file of addresses and networks to [block as well](#custom-blacklist).",
		},
		{
			Name: "SIKKER_API_URL", Default: "https://api.sikkerapi.com", Accepted: "https URL; plain http only to a loopback or private address",
			Text: "Where SikkerAPI is.", set: setAPIURL,
		},
		{
			Name: "SIKKER_BACKEND", Default: "auto", Accepted: "auto, nftables, iptables", Text: "How the list is put into the kernel.",
			Note: "`iptables` is refused at the start",
			set: func(l *loader, s string) string {
				return oneOf(&l.cfg.Backend, s, BackendAuto, BackendNFTables, BackendIPTables)
			},
		},
		{
			Name: "SIKKER_ON_CRASH", Default: "release", Accepted: "release, keep",
			Text: "What becomes of the rules when the agent is killed. `release`: they go with it. `keep`: they stay, and the next start " +
				"takes them over; until then `nft delete table inet sikkerguard` removes them.",
			set: func(l *loader, s string) string { return oneOf(&l.cfg.OnCrash, s, OnCrashRelease, OnCrashKeep) },
		},
		{
			Name: "SIKKER_NFLOG_GROUP", Default: "100", Accepted: "1–65535", Text: "NFLOG group that dropped packets are copied to.",
			set: func(l *loader, s string) string { return number(&l.cfg.NFLOGGroup, s, "a whole number", 1, 65535) },
		},
		{
			Name: "SIKKER_LOG_RATE", Default: "10000", Accepted: "1–1000000",
			Text: "Dropped packets a second that may be copied for the log. The drop itself has no limit.",
			set:  func(l *loader, s string) string { return number(&l.cfg.LogRate, s, "packets a second", 1, 1_000_000) },
		},
		{
			Name: "SIKKER_STATE_DIR", Default: "/var/lib/sikkerguard", Accepted: "absolute path", set: setStateDir,
			Text: "Where the last good list and the control socket are kept, for root alone.",
		},
		{
			Name: "SIKKER_LOG_LEVEL", Default: "info", Accepted: "debug, info, warn, error", Text: "The least severe event that is logged.",
			set: func(l *loader, s string) string {
				return oneOf(&l.cfg.LogLevel, s, LogDebug, LogInfo, LogWarn, LogError)
			},
		},
		{
			Name: "SIKKER_LOG_FORMAT", Default: "console", Accepted: "console, json", Text: "How an event is written.",
			set: func(l *loader, s string) string { return oneOf(&l.cfg.LogFormat, s, LogConsole, LogJSON) },
		},
	}
}

// unknown says what to do about a name that is no variable. Its value may be a key under a misspelt name, so it is not
// shown.
func unknown(name string) string {
	own := strings.TrimPrefix(strings.ToUpper(name), prefix) // the prefix would make every name look alike
	nearest, least := "", len(own)
	for _, v := range variables() {
		if d := levenshtein.ComputeDistance(own, strings.TrimPrefix(v.Name, prefix)); d < least {
			nearest, least = v.Name, d
		}
	}
	if least > len(own)/2 {
		return " is not a variable of SikkerGuard: remove it (docs/configuration.md has them all)"
	}
	return fmt.Sprintf(" is not a variable of SikkerGuard: did you mean %s?", nearest)
}
