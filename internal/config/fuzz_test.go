package config_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

// FuzzLoad checks that every configuration is refused or within its ranges, and that no error shows
// the key.
func FuzzLoad(f *testing.F) {
	f.Add("50", "60", "true", "10.0.0.0/8", "ssh=22", "8080", "https://a.example", "info", "/srv", "X",
		"sk_test_0123456789")
	f.Add("010", "1e3", "T", "::ffff:1.2.3.4", "a=1;b=1", "-1", "http://[::1]:80/", "loud", "srv", "SCOREMIN",
		"sk_ \x00")
	f.Add("sk_test_0123456789", "x", "no", "0.0.0.0/0,sk_test_0123456789", "sk_test_0123456789=1", "0",
		"https://sk_test_0123456789@a",
		"SK_TEST_0123456789", "sk_test_0123456789", "sk_test_0123456789", "sk_test_0123456789")
	f.Add("1", "1440", "0", "fe80::1%12345678", "abcdefgh=0", "65536", "https://a/12345678", "", "/12345678",
		"12345678", "12345678")
	f.Fuzz(func(t *testing.T, score, minutes, boolean, white, ports, number, api, word, dir, name, key string) {
		environ := []string{
			"SIKKER_SCORE_MIN=" + score, "SIKKER_PULL_INTERVAL=" + minutes, "SIKKER_REPORT_INTERVAL=" + minutes,
			"SIKKER_DRY_RUN=" + boolean, "SIKKER_REPORT_ENABLED=" + boolean, "SIKKER_WHITELIST=" + white,
			"SIKKER_PORT_MAP=" + ports,
			"SIKKER_HEALTH_PORT=" + number, "SIKKER_NFLOG_GROUP=" + number, "SIKKER_LOG_RATE=" + number,
			"SIKKER_API_URL=" + api,
			"SIKKER_BACKEND=" + word, "SIKKER_ON_CRASH=" + word, "SIKKER_LOG_LEVEL=" + word,
			"SIKKER_LOG_FORMAT=" + word,
			"SIKKER_STATE_DIR=" + dir, "SIKKER_API_KEY=" + key,
		}
		if name != "" {
			environ = append(environ, "SIKKER_"+name+"=x")
		}
		cfg, err := config.Load(environ)
		if err != nil {
			var e *config.Error
			if !errors.As(err, &e) || len(e.Problems) == 0 {
				t.Fatalf("no problem in %v", err)
			}
			if lines := strings.Count(err.Error(), "\n"); lines > len(e.Problems) || len(e.Problems) == 1 && lines > 0 {
				t.Fatalf("more lines than problems: %v", err)
			}
			if key = strings.TrimSpace(key); len(key) >= 8 && strings.Contains(err.Error(), key) {
				t.Fatalf("the error shows the key: %v", err)
			}
			return
		}
		checkRanges(t, cfg)
	})
}

func checkRanges(t *testing.T, cfg config.Config) {
	t.Helper()
	between := func(what string, value, least, most int) {
		if value < least || value > most {
			t.Errorf("%s is %d, not from %d to %d", what, value, least, most)
		}
	}
	between("score", cfg.ScoreMin, 1, 100)
	between("pull interval", int(cfg.PullInterval/time.Minute), 60, 1440)
	between("report interval", int(cfg.ReportInterval/time.Minute), 1, 1440)
	between("port", int(cfg.HealthPort), 1, 65535)
	between("group", int(cfg.NFLOGGroup), 1, 65535)
	between("rate", int(cfg.LogRate), 1, 1_000_000)
	for _, p := range cfg.Whitelist {
		if !p.IsValid() || p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			t.Errorf("whitelist holds %v", p)
		}
	}
	if u := cfg.APIURL; u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		strings.HasSuffix(u.String(), "/") {
		t.Errorf("URL is %v", u)
	}
	if !filepath.IsAbs(cfg.StateDir) || !strings.HasPrefix(cfg.APIKey.Reveal(), "sk_") {
		t.Errorf("state directory %q, key %q", cfg.StateDir, cfg.APIKey.Reveal())
	}
	if cfg.Backend == "" || cfg.OnCrash == "" || cfg.LogLevel == "" || cfg.LogFormat == "" {
		t.Errorf("an enumeration is empty: %+v", cfg)
	}
}
