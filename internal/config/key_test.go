package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

func TestLoadKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		return "SIKKER_API_KEY_FILE=" + writeFile(t, name, text, mode)
	}
	good := file("good", testKey+"\n", 0o600)
	tests := []struct{ name, one, two, want string }{
		// Every key here contains 0123456789 or begins with sk_secret: no error may show either.
		{
			"bad missing", "", "",
			"SIKKER_API_KEY is not set: set it, or SIKKER_API_KEY_FILE, to your key from https://sikkerapi.com",
		},
		{"bad both", "SIKKER_API_KEY=" + testKey, good, "SIKKER_API_KEY and SIKKER_API_KEY_FILE are both set"},
		{"bad prefix", "SIKKER_API_KEY=secret_0123456789", "", "does not hold a SikkerAPI key"},
		{"bad space", "SIKKER_API_KEY=sk_secret 0123456789", "", "does not hold a SikkerAPI key"},
		{
			"bad file missing", "SIKKER_API_KEY_FILE=" + dir + "/none", "",
			"/none\": must be a file that holds the key and can be read (no such file or directory)",
		},
		{"bad file is a directory", "SIKKER_API_KEY_FILE=" + dir, "", "it is not a regular file"},
		{
			"bad file empty", file("empty", "\n", 0o600), "",
			"must be a file that holds the key and can be read (it is empty)",
		},
		{
			"bad file holds no key", file("other", "secret_0123456789", 0o600), "",
			"SIKKER_API_KEY_FILE does not hold a SikkerAPI key",
		},
		{"bad file too long", file("long", strings.Repeat("sk_secret", 1000), 0o600), "", "has more than 4096 bytes"},
		{"bad prefix alone", "SIKKER_API_KEY=sk_", "", "does not hold a SikkerAPI key"},
		{"bad control character", "SIKKER_API_KEY=sk_secret\x00123456789", "", "does not hold a SikkerAPI key"},
		{
			"bad key for the file", "SIKKER_API_KEY_FILE=" + testKey, "",
			"SIKKER_API_KEY_FILE contains an API key: move it to SIKKER_API_KEY",
		},
		{
			"bad key without prefix for the file", "SIKKER_API_KEY_FILE=secret_0123456789", "",
			"SIKKER_API_KEY_FILE: must be the path of a file",
		},
		{
			"bad key in another value", "SIKKER_API_KEY=" + testKey, "SIKKER_WHITELIST=10.0.0.0/33," + testKey,
			"SIKKER_WHITELIST contains an API key",
		},
		{
			"bad key of the file in another value", good, "SIKKER_BACKEND=x" + strings.ToUpper(testKey),
			"SIKKER_BACKEND contains an API key",
		},
		{
			"bad key in the URL", "SIKKER_API_KEY=" + testKey, "SIKKER_API_URL=https://a.example/?key=" + testKey,
			"SIKKER_API_URL contains an API key",
		},
		{
			"bad other key in the URL", "SIKKER_API_KEY=" + testKey, "SIKKER_API_URL=https://a.example/?key=sk_secret",
			"must be a URL without ? and #",
		},
		{
			"bad key in a name", "SIKKER_API_KEY: " + testKey + "=", "",
			"SIKKER_API_KEY… is not a variable of SikkerGuard; did you mean SIKKER_API_KEY?",
		},
		{
			"bad configured key in a name", "SIKKER_API_KEY=" + testKey, "SIKKER_X" + testKey + "=",
			"SIKKER_… has an API key in its name",
		},
		{"bad misspelt, with the key", "SIKKER_API_KYE=" + testKey, "", "did you mean SIKKER_API_KEY?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load([]string{tt.one, tt.two})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if text := strings.ToLower(err.Error()); strings.Contains(text, "123456789") ||
				strings.Contains(text, "sk_secret") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestLoadKeyFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		mode os.FileMode
		want []string
	}{
		{"OK of the owner", 0o600, nil},
		{"OK of the group", 0o640, nil},
		{"OK of all users, with a warning", 0o644, []string{"chmod 600"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := writeFile(t, "key", " "+testKey+"\n", tt.mode)
			cfg, err := config.Load([]string{"SIKKER_API_KEY_FILE=" + path})
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.APIKey.Reveal(); got != testKey {
				t.Errorf("key: got %q, want %q", got, testKey)
			}
			contains := cmp.Comparer(func(want, got string) bool {
				return strings.Contains(got, want) || strings.Contains(want, got)
			})
			if diff := cmp.Diff(tt.want, cfg.Warnings, contains); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// writeFile makes a file with exactly that mode, whatever the umask.
func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKeyDoesNotPrint checks every way to print a configuration.
func TestKeyDoesNotPrint(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load([]string{"SIKKER_API_KEY=" + testKey})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	// All letters, including those that fmt does not know: for these it prints the fields of the
	// operand.
	for verb := 'A'; verb <= 'z'; verb++ {
		for _, flags := range []string{"%", "%+", "%#", "%-50.40"} {
			format := flags + string(verb)
			texts = append(texts, fmt.Sprintf(format, cfg), fmt.Sprintf(format, &cfg), fmt.Sprintf(format, cfg.APIKey),
				fmt.Sprintf(format, &cfg.APIKey), fmt.Errorf(format, cfg.APIKey).Error())
		}
	}
	raw, err := json.Marshal(map[string]any{"config": cfg, "pointer": &cfg, "secret": cfg.APIKey})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "config", cfg, "secret", cfg.APIKey)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "config", cfg, "secret", cfg.APIKey)
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(&log), zap.InfoLevel)
	zap.New(core).Info("zap",
		zap.Any("config", cfg), zap.Any("secret", cfg.APIKey), zap.Reflect("reflected", cfg.APIKey))
	texts = append(texts, string(raw), log.String())
	for _, text := range texts {
		if showsKey(text) {
			t.Errorf("the key shows in %s", text)
		}
	}
	for name, text := range map[string]string{
		"String": cfg.APIKey.String(), "%#v": fmt.Sprintf("%#v", cfg.APIKey), "%d": fmt.Sprintf("%d", cfg.APIKey),
	} {
		if text != "[redacted]" {
			t.Errorf("%s: got %q, want [redacted]", name, text)
		}
	}
}

// showsKey reports whether text contains the key as text, in hexadecimal or as decimal bytes.
func showsKey(text string) bool {
	decimal := strings.Trim(fmt.Sprintf("%d", []byte(testKey)), "[]")
	return strings.Contains(text, "0123456789") ||
		strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", testKey)) ||
		strings.Contains(text, decimal)
}

// TestKeyDoesNotPanic checks that the runtime does not print the key if a process panics with a
// configuration.
func TestKeyDoesNotPanic(t *testing.T) {
	t.Parallel()
	const marker = "PANIC_WITH_CONFIG"
	if os.Getenv(marker) != "" {
		cfg, err := config.Load([]string{"SIKKER_API_KEY=" + testKey})
		if err != nil {
			t.Fatal(err)
		}
		panic(cfg)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKeyDoesNotPanic$")
	cmd.Env = append(os.Environ(), marker+"=1", "GOTRACEBACK=all")
	out, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("panic: ")) {
		t.Fatalf("no panic: %v\n%s", err, out)
	}
	if showsKey(string(out)) {
		t.Errorf("the key shows in %s", out)
	}
}
