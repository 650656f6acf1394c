package config_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

// wrapped returns the forms in which environment files leave a value.
func wrapped(value string) []string {
	return []string{
		value, `"` + value + `"`, "'" + value + "'", " \" " + value + " \" ", "“" + value + "”", value + "\r\n",
		"\ufeff" + value,
		"\u00a0" + value + "\u200b", value + "  # why", value + "\t# why", `"` + value + `" # why "not"`,
	}
}

// TestLoadTakesValuesAsFilesLeaveThem loads every kind of value in the forms that a shell would
// have cleaned.
func TestLoadTakesValuesAsFilesLeaveThem(t *testing.T) {
	t.Parallel()
	list := filepath.Join(t.TempDir(), "my list.txt")
	if err := os.WriteFile(list, []byte("203.0.113.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"SIKKER_API_KEY": testKey, "SIKKER_SCORE_MIN": "80", "SIKKER_PULL_INTERVAL": "90", "SIKKER_DRY_RUN": "TRUE",
		"SIKKER_WHITELIST": "203.0.113.9", "SIKKER_PORT_MAP": "game=25565", "SIKKER_CUSTOM_BLACKLIST": list,
		"SIKKER_API_URL": "https://a.example/base", "SIKKER_BACKEND": "NFTables", "SIKKER_STATE_DIR": "/srv/state",
	}
	for i := range wrapped("") {
		environ := []string{}
		for name, value := range values {
			environ = append(environ, name+"="+wrapped(value)[i])
		}
		cfg, err := config.Load(environ)
		if err != nil {
			t.Errorf("form %q: %v", wrapped("x")[i], err)
			continue
		}
		game, _ := cfg.Ports.Name(25565)
		got := fmt.Sprintln(cfg.APIKey.Reveal(), cfg.ScoreMin, cfg.PullInterval, cfg.DryRun, cfg.Whitelist, game,
			cfg.CustomBlacklist, cfg.APIURL,
			cfg.Backend, cfg.StateDir)
		want := fmt.Sprintln(testKey, 80, 90*time.Minute, true, "[203.0.113.9/32]", "game", list,
			"https://a.example/base", "nftables", "/srv/state")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("form %q (-want +got):\n%s", wrapped("x")[i], diff)
		}
	}
	for _, empty := range []string{`""`, "''", " # none", "#"} {
		if cfg, err := config.Load([]string{"SIKKER_API_KEY=" + testKey, "SIKKER_SCORE_MIN=" + empty}); err != nil ||
			cfg.ScoreMin != 50 {
			t.Errorf("%q: got %d, %v, want the default", empty, cfg.ScoreMin, err)
		}
	}
}

// TestLoadTakesKeyAsCopied checks that a key is accepted with the text that is often copied with
// it.
func TestLoadTakesKeyAsCopied(t *testing.T) {
	t.Parallel()
	forms := append(wrapped(testKey), wrapped("Bearer "+testKey)...)
	forms = append(forms, "bearer   "+testKey, "Authorization: Bearer "+testKey, `Bearer "`+testKey+`"`)
	forms = append(forms, `'"`+testKey+`"'`, testKey+",", `"`+testKey+`";`, "bearer: "+testKey,
		"SIKKER_API_KEY="+testKey, `export SIKKER_API_KEY='`+testKey+`'`, "SIKKER_API_KEY: "+testKey)
	for _, form := range forms {
		cfg, err := config.Load([]string{"SIKKER_API_KEY=" + form})
		if err != nil || cfg.APIKey.Reveal() != testKey {
			t.Errorf("%q: got %q, %v", form, cfg.APIKey.Reveal(), err)
		}
	}
	var little, big []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + testKey + "\r\n")) {
		little, big = binary.LittleEndian.AppendUint16(little, u), binary.BigEndian.AppendUint16(big, u)
	}
	forms = append(forms, string(little), string(big), "SIKKER_API_KEY="+testKey+"\n", testKey+"\n\n",
		"# my key\n"+testKey+" # of 2026\n",
		"# .env\nSIKKER_SCORE_MIN=75\nexport SIKKER_API_KEY = \""+testKey+"\"\nSIKKER_API_KEY_FILE=\n")
	for _, form := range forms {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(form), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load([]string{"SIKKER_API_KEY_FILE=" + file})
		if err != nil || cfg.APIKey.Reveal() != testKey {
			t.Errorf("file %q: got %q, %v", form, cfg.APIKey.Reveal(), err)
		}
	}
}

// TestKeyFileOfTwoKeys checks that a file with two keys is refused.
func TestKeyFileOfTwoKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(testKey+"\n"+testKey+"2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load([]string{"SIKKER_API_KEY_FILE=" + file}); err == nil ||
		strings.Contains(err.Error(), testKey) {
		t.Errorf("got %v", err)
	}
}

// TestLoadNamesTheVariableThatIsMeant checks the suggestions for names that do not begin with
// SIKKER_, or end in KEY.
func TestLoadNamesTheVariableThatIsMeant(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"SIKKERAPI_KEY", "SIKKERGUARD_API_KEY", "SIKKERAPI_API_KEY", "SIKER_API_KEY", "sikkerapi_key",
	} {
		_, err := config.Load([]string{name + "=" + testKey})
		want := "SIKKER_API_KEY is not set: set it, or SIKKER_API_KEY_FILE, to your key from https://sikkerapi.com (" +
			name + " is set, but is not read)"
		if err == nil || !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), testKey) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	for name, want := range map[string]string{
		"SIKKER_KEY": "did you mean SIKKER_API_KEY?", "SIKKER_TOKEN": "did you mean SIKKER_API_KEY?",
		"SIKKER_APIKEY": "did you mean SIKKER_API_KEY?",
	} {
		if _, err := config.Load([]string{name + "=" + testKey}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	cfg, err := config.Load([]string{
		"SIKKER_API_KEY=" + testKey, "SIKKERAPI_KEY=" + testKey, "SIKKERGUARD_SCORE_MIN=80",
		"SIKKERGUARD_PORT=tcp://10.0.0.1:80",
		"SIKKERGUARD_SERVICE_HOST=10.0.0.1", "SHELL=/bin/sh",
	})
	want := []string{"SIKKERGUARD_SCORE_MIN is not read; did you mean SIKKER_SCORE_MIN?"}
	if diff := cmp.Diff(want, cfg.Warnings); diff != "" || err != nil {
		t.Errorf("%v; warnings (-want +got):\n%s", err, diff)
	}
}

// TestLoadDoesNotWarnOfAKeyThatIsNotMissed has the key in a file, and another name that is not
// read.
func TestLoadDoesNotWarnOfAKeyThatIsNotMissed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(testKey), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load([]string{"SIKKER_API_KEY_FILE=" + file, "SIKKERAPI_KEY=" + testKey})
	if err != nil || len(cfg.Warnings) > 0 {
		t.Errorf("got %q, %v", cfg.Warnings, err)
	}
}

// TestLoadNeverShowsAKeyWithBearer puts a key with its header into the wrong variable.
func TestLoadNeverShowsAKeyWithBearer(t *testing.T) {
	t.Parallel()
	const other = "sk_test_another_key"
	for _, name := range []string{"SIKKER_SCORE_MIN", "SIKKER_WHITELIST", "SIKKER_BACKEND", "SIKKER_API_KEY_FILE"} {
		if _, err := config.Load([]string{name + "=Bearer " + other}); err == nil ||
			strings.Contains(err.Error(), other) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestPortMapOfSeveralLines has one entry per line, as in a YAML block.
func TestPortMapOfSeveralLines(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load([]string{"SIKKER_API_KEY=" + testKey, "SIKKER_PORT_MAP=game=25565\r\nweb=8888,8889\n"})
	game, _ := cfg.Ports.Name(25565)
	web, _ := cfg.Ports.Name(8889)
	if err != nil || game != "game" || web != "web" {
		t.Errorf("got %q, %q, %v", game, web, err)
	}
}

// TestWhitelistSeparators checks the forms in which operators write lists.
func TestWhitelistSeparators(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"203.0.113.9,2001:db8::/32", "203.0.113.9 2001:db8::/32", "203.0.113.9;2001:db8::/32",
		"203.0.113.9\n2001:db8::/32\n",
		"203.0.113.9\r\n2001:db8::/32", "203.0.113.9\t2001:db8::/32", `"203.0.113.9","2001:db8::/32"`,
		`["203.0.113.9", "2001:db8::/32"]`,
		"203.0.113.9 , ; 2001:db8::/32;", "203.0.113.9 # office\n# home, x\n2001:db8::/32 // home",
		"'203.0.113.9' '2001:db8::/32'", "203.0.113.9,[2001:db8::]/32",
	} {
		cfg, err := config.Load([]string{"SIKKER_API_KEY=" + testKey, "SIKKER_WHITELIST=" + value})
		if got := fmt.Sprint(cfg.Whitelist); err != nil || got != "[203.0.113.9/32 2001:db8::/32]" {
			t.Errorf("%q: got %s, %v", value, got, err)
		}
	}
}

// TestWhitelistOfNearlyEverythingIsRefused checks entries that together leave nothing to block.
func TestWhitelistOfNearlyEverythingIsRefused(t *testing.T) {
	t.Parallel()
	parts := func(format string, first, end int) string {
		var ss []string
		for i := first; i < end; i++ {
			ss = append(ss, fmt.Sprintf(format, i))
		}
		return strings.Join(ss, ",")
	}
	for name, value := range map[string]string{
		"halves": "0.0.0.0/1,128.0.0.0/1", "a half": "0.0.0.0/1", "mapped halves": "::ffff:0:0/97,::ffff:128.0.0.0/97",
		"/8 upon /8": parts("%d.0.0.0/8", 0, 256), "mapped /8": parts("::ffff:%d.0.0.0/104", 0, 256),
		"all of IPv6": "2000::/3", "IPv6 in parts": "::/1,8000::/1", "/16 upon /16": parts("2%03x::/16",
			0x400, 0x400+116),
		"NAT64": "64:ff9b::/96", "6to4": "2002::/16",
	} {
		_, err := config.Load([]string{"SIKKER_API_KEY=" + testKey, "SIKKER_WHITELIST=" + value})
		if err == nil || !strings.Contains(err.Error(), "the limit is 50%: to block nothing, stop the agent") {
			t.Errorf("%s: got %v, want a problem", name, err)
		}
	}
	for name, value := range map[string]string{
		"special-purpose": "10.0.0.0/8,224.0.0.0/3,fc00::/7,fe80::/10,ff00::/8", "a third": "64.0.0.0/2,32.0.0.0/6",
		"a registry's block": "2a00::/12,2a10::/12", "NAT64": "64:ff9b::203.0.113.0/120",
	} {
		if _, err := config.Load([]string{"SIKKER_API_KEY=" + testKey, "SIKKER_WHITELIST=" + value}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCustomBlacklistMayBeMissingOnceItWasRead checks that a host stays protected by the copy of
// the agent if the file is gone.
func TestCustomBlacklistMayBeMissingOnceItWasRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "gone.txt"), dir} {
		state := t.TempDir()
		environ := []string{"SIKKER_API_KEY=" + testKey, "SIKKER_CUSTOM_BLACKLIST=" + path, "SIKKER_STATE_DIR=" + state}
		if _, err := config.Load(environ); err == nil ||
			!strings.Contains(err.Error(), "must be a file that can be read") {
			t.Errorf("%s: got %v, want a problem", path, err)
		}
		if err := os.WriteFile(filepath.Join(state, config.CustomCopy), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if cfg, err := config.Load(environ); err != nil || cfg.CustomBlacklist != path {
			t.Errorf("%s: got %q, %v", path, cfg.CustomBlacklist, err)
		}
	}
}
