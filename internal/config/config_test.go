package config_test

import (
	"errors"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

const testKey = "sk_test_0123456789abcdef"

func key() config.Secret { return config.NewSecret(testKey) }

func compare() []cmp.Option {
	return []cmp.Option{
		cmp.Comparer(func(a, b config.Secret) bool { return a.Reveal() == b.Reveal() }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmpopts.IgnoreFields(config.Config{}, "Ports"),
	}
}

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	got, err := config.Load([]string{"SIKKER_API_KEY=" +
		testKey, "PATH=/bin", "SIKKER_SCORE_MIN=", "SIKKER_DRY_RUN=  "})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		APIKey: key(), ScoreMin: 50, PullInterval: 24 * time.Hour, ReportEnabled: true,
		ReportInterval: 30 * time.Minute,
		HealthPort:     8080, APIURL: &url.URL{Scheme: "https", Host: "api.sikkerapi.com"}, Backend: config.BackendAuto,
		OnCrash: config.OnCrashRelease, NFLOGGroup: 100, LogRate: 10_000, StateDir: "/var/lib/sikkerguard",
		LogLevel: config.LogInfo, LogFormat: config.LogConsole,
	}
	if diff := cmp.Diff(want, got, compare()...); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	for port, name := range map[uint16]string{22: "ssh", 22222: "ssh", 3389: "rdp", 10250: "kubernetes"} {
		if got, ok := got.Ports.Name(port); !ok || got != name {
			t.Errorf("port %d: got %q, want %q", port, got, name)
		}
	}
}

func TestLoadEverything(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load([]string{
		"SIKKER_API_KEY= " + testKey + " ", "SIKKER_SCORE_MIN=1", "SIKKER_PULL_INTERVAL=60", "SIKKER_REPORT_ENABLED=No",
		"SIKKER_REPORT_INTERVAL=1440",
		"SIKKER_WHITELIST= 198.51.100.7, 203.0.113.9/24 ,2001:db8::1,::ffff:192.0.2.0/120,,",
		"SIKKER_PORT_MAP=Game=25565, 25566 ;web=80;", "SIKKER_DRY_RUN=1", "SIKKER_HEALTH_PORT=65535",
		"SIKKER_CUSTOM_BLACKLIST=" + file,
		"SIKKER_API_URL=http://127.0.0.1:9080/base/", "SIKKER_BACKEND=NFTables", "SIKKER_ON_CRASH=keep",
		"SIKKER_NFLOG_GROUP=1",
		"SIKKER_LOG_RATE=1000000", "SIKKER_STATE_DIR=/srv/state/", "SIKKER_LOG_LEVEL=debug", "SIKKER_LOG_FORMAT=json",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		APIKey: key(), ScoreMin: 1, PullInterval: time.Hour, ReportInterval: 24 * time.Hour,
		Whitelist: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("203.0.113.0/24"),
			netip.MustParsePrefix("2001:db8::1/128"),
			netip.MustParsePrefix("192.0.2.0/24"),
		},
		DryRun: true, HealthPort: 65535, CustomBlacklist: file, APIURL: &url.URL{
			Scheme: "http", Host: "127.0.0.1:9080", Path: "/base",
		},
		Backend: config.BackendNFTables, OnCrash: config.OnCrashKeep, NFLOGGroup: 1, LogRate: 1_000_000,
		StateDir: "/srv/state",
		LogLevel: config.LogDebug, LogFormat: config.LogJSON,
	}
	if diff := cmp.Diff(want, got, compare()...); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	for port, name := range map[uint16]string{25565: "game", 25566: "game", 80: "web", 8080: "http"} {
		if got, ok := got.Ports.Name(port); !ok || got != name {
			t.Errorf("port %d: got %q, want %q", port, got, name)
		}
	}
	if name, ok := got.Ports.Name(4444); ok {
		t.Errorf("port 4444 is %q", name)
	}
}

func TestLoadProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tests := []struct{ name, vars, want string }{
		{"bad score", "SIKKER_SCORE_MIN=101", `SIKKER_SCORE_MIN="101": must be a whole number from 1 to 100`},
		{"bad score of zero", "SIKKER_SCORE_MIN=0", `="0": must be`},
		{"bad octal", "SIKKER_SCORE_MIN=010", `="010": must be`},
		{"bad trailing letter", "SIKKER_SCORE_MIN=12x", `="12x": must be`},
		{"bad sign", "SIKKER_SCORE_MIN=+50", `="+50": must be`},
		{"bad fraction", "SIKKER_PULL_INTERVAL=90.5", `="90.5": must be a whole number of minutes from 60 to 1440`},
		{"bad duration", "SIKKER_PULL_INTERVAL=24h", `="24h": must be a whole number of minutes from 60 to 1440`},
		{"bad duration says how to write it", "SIKKER_PULL_INTERVAL=24h", `from 60 to 1440; "24h" is 1440`},
		{"bad duration in days", "SIKKER_PULL_INTERVAL=1d", `; "1d" is 1440`},
		{
			"bad full-width digits", "SIKKER_SCORE_MIN=８０",
			`="８０": must be a whole number from 1 to 100, in the digits 0 to 9`,
		},
		{"bad report interval", "SIKKER_REPORT_INTERVAL=0", `from 1 to 1440`},
		{"bad boolean", "SIKKER_DRY_RUN=maybe", `SIKKER_DRY_RUN="maybe": must be true or false`},
		{"bad port", "SIKKER_HEALTH_PORT=65536", `must be a whole number from 1 to 65535`},
		{"bad group", "SIKKER_NFLOG_GROUP=0", `from 1 to 65535`},
		{"bad rate", "SIKKER_LOG_RATE=1000001", `must be a whole number of packets a second from 1 to 1000000`},
		{"bad backend", "SIKKER_BACKEND=pf", `SIKKER_BACKEND="pf": must be one of auto, nftables, iptables`},
		{"bad on crash", "SIKKER_ON_CRASH=burn", `must be one of release, keep`},
		{"bad level", "SIKKER_LOG_LEVEL=loud", `must be one of debug, info, warn, error`},
		{"bad format", "SIKKER_LOG_FORMAT=xml", `must be one of console, json`},
		{"bad state directory", "SIKKER_STATE_DIR=state", `="state": must be an absolute path`},
		{
			"bad whitelist", "SIKKER_WHITELIST=10.0.0.0/33,host.example,192.0.2.1",
			`"10.0.0.0/33": must be an address or a network like 192.0.2.0/24; "host.example": must be`,
		},
		{"bad whitelist of everything", "SIKKER_WHITELIST=::/0", `"::/0": must be less than all addresses`},
		{
			"bad whitelist of everything, mapped", "SIKKER_WHITELIST=::ffff:0.0.0.0/96",
			`must be less than all addresses`,
		},
		{
			"bad whitelist zone", "SIKKER_WHITELIST=fe80::1%eth0",
			`"fe80::1%eth0": must be without the % and the zone after it`,
		},
		{"bad port map name", "SIKKER_PORT_MAP=my game=1", `"my game=1": must be name=port,port`},
		{
			"bad port map port", "SIKKER_PORT_MAP=game=0,70000,x",
			`port "0" of game must be a whole number from 1 to 65535; port "70000" of game`,
		},
		{"bad port map octal", "SIKKER_PORT_MAP=game=010", `port "010" of game must be`},
		{"bad port map without ports", "SIKKER_PORT_MAP=game=", `port "" of game must be`},
		{"bad port map twice", "SIKKER_PORT_MAP=a=1;b=1", `port 1 is given to both a and b`},
		{"bad custom blacklist missing", "SIKKER_CUSTOM_BLACKLIST=" + dir + "/none", `must be a file that can be read`},
		{
			"bad custom blacklist path of two lines", "SIKKER_CUSTOM_BLACKLIST=/no\nne",
			`="/no\nne": must be a file that can be read (no such file or directory)`,
		},
		{"bad custom blacklist directory", "SIKKER_CUSTOM_BLACKLIST=" + dir, `it is not a regular file`},
		{"bad custom blacklist relative", "SIKKER_CUSTOM_BLACKLIST=list", `must be an absolute path`},
		{"bad URL", "SIKKER_API_URL=api.sikkerapi.com", `SIKKER_API_URL: must be a URL like`},
		{
			"bad URL plain http outside", "SIKKER_API_URL=http://203.0.113.9",
			`must be https, or plain http to a loopback or private address`,
		},
		{"bad URL plain http link-local", "SIKKER_API_URL=http://169.254.169.254", `must be https`},
		{"bad URL without host", "SIKKER_API_URL=https://:443", `SIKKER_API_URL: must be a URL like`},
		{"bad URL port", "SIKKER_API_URL=https://a.example:65536", `SIKKER_API_URL: must be a URL like`},
		{"bad URL empty fragment", "SIKKER_API_URL=https://a.example/#", `must be a URL without ? and #`},
		{"bad URL scheme", "SIKKER_API_URL=ftp://127.0.0.1", `must be https`},
		{"bad URL query", "SIKKER_API_URL=https://a.example/?x=1", `must be a URL without ? and #`},
		{
			"bad long value", "SIKKER_BACKEND=" + strings.Repeat("é", 100),
			`SIKKER_BACKEND="` + strings.Repeat("é", 80) + `"…: must be`,
		},
		{"bad value of two lines", "SIKKER_BACKEND=a\nb", `SIKKER_BACKEND="a\nb": must be`},
		{
			"bad unknown", "SIKKER_SCOREMIN=80",
			`SIKKER_SCOREMIN is not a variable of SikkerGuard; did you mean SIKKER_SCORE_MIN?`,
		},
		{
			"bad unknown in lower case", "sikker_dry_run=true",
			`sikker_dry_run is not a variable of SikkerGuard; did you mean SIKKER_DRY_RUN?`,
		},
		{
			"bad unknown that is too long to be one", "SIKKER_" + strings.Repeat("X", 1000) + "=1",
			"SIKKER_" + strings.Repeat("X", 73) + "… is not a variable",
		},
		{"bad unknown that is only the prefix", "SIKKER_=1", `SIKKER_ is not a variable of SikkerGuard: remove it`},
		{"bad unknown without a similar name", "SIKKER_XYZZYXYZZYXYZZY=1", `docs/configuration.md lists all of them`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load([]string{"SIKKER_API_KEY=" + testKey, tt.vars})
			var e *config.Error
			if !errors.As(err, &e) || len(e.Problems) != 1 || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want one problem with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("one problem takes more than one line: %q", err)
			}
			if cfg.APIKey.Reveal() != "" {
				t.Error("a configuration came with the error")
			}
		})
	}
}

func TestLoadAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := config.Load([]string{
		"SIKKER_SCORE_MIN=0", "SIKKER_LOG_FORMAT=xml", "SIKKER_FOO=" + testKey,
		"SIKKER_API_URL=https://user:hunter2@a.example",
	})
	want := `5 configuration problems:
  SIKKER_FOO is not a variable of SikkerGuard: remove it (docs/configuration.md lists all of them)
  SIKKER_API_KEY is not set: set it, or SIKKER_API_KEY_FILE, to your key from https://sikkerapi.com
  SIKKER_SCORE_MIN="0": must be a whole number from 1 to 100
  SIKKER_API_URL: must not hold a user or password
  SIKKER_LOG_FORMAT="xml": must be one of console, json`
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestHealthPort(t *testing.T) {
	t.Parallel()
	if port, err := config.HealthPort([]string{"SIKKER_HEALTH_PORT=9000", "SIKKER_SCORE_MIN=x"}); err != nil ||
		port != 9000 {
		t.Errorf("got %d, %v", port, err)
	}
	if port, err := config.HealthPort(nil); err != nil || port != 8080 {
		t.Errorf("got %d, %v", port, err)
	}
	if _, err := config.HealthPort([]string{"SIKKER_HEALTH_PORT=x"}); err == nil {
		t.Error("no error")
	}
	if dir, err := config.StateDir([]string{"SIKKER_STATE_DIR=/srv/state"}); err != nil || dir != "/srv/state" {
		t.Errorf("got %q, %v", dir, err)
	}
}
