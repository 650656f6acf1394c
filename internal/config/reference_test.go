package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/config"
)

var update = flag.Bool("update", false, "write docs/configuration.md and .env.example")

func TestReference(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"../../docs/configuration.md": config.Reference(),
		"../../.env.example":          config.EnvExample(),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s is stale: run make docs (-want +got):\n%s", path, diff)
		}
	}
}

// TestEnvExample reads .env.example as Docker Compose does, unchanged and with each setting
// enabled.
func TestEnvExample(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "list", testKey, 0o600) // used as key file and as blacklist
	var given []string
	for line := range strings.Lines(config.EnvExample()) {
		setting, off := strings.CutPrefix(strings.TrimSpace(line), "#SIKKER_")
		if setting = "SIKKER_" + setting; !off {
			setting = strings.TrimSpace(line)
		}
		name, value, ok := strings.Cut(setting, "=")
		if !ok || strings.HasPrefix(setting, "#") {
			continue
		}
		given = append(given, name)
		if on := name == "SIKKER_API_KEY"; on == off {
			t.Errorf("%s is switched on: %v", name, !off)
		}
		environ := []string{"SIKKER_API_KEY=" + testKey, setting}
		switch name {
		case "SIKKER_API_KEY":
			environ = []string{setting + testKey}
		case "SIKKER_API_KEY_FILE":
			environ = []string{name + "=" + file}
		case "SIKKER_CUSTOM_BLACKLIST":
			environ[1] = name + "=" + file
		}
		if _, err := config.Load(environ); err != nil || value == "" && off {
			t.Errorf("%s: %v", setting, err)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| `(SIKKER_[A-Z_]+)`").FindAllStringSubmatch(config.Reference(), -1)
	var want []string
	for _, m := range rows {
		want = append(want, m[1])
	}
	if diff := cmp.Diff(want, given); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}

// TestReferenceExamples loads every default and every example of the page.
func TestReferenceExamples(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "list", testKey, 0o600) // used as key file and as blacklist
	settings := regexp.MustCompile("`(SIKKER_[A-Z_]+=[^`]+)`")
	rows := regexp.MustCompile("(?m)^\\| `(SIKKER_[A-Z_]+)` \\| (?:`([^`]+)`)? ?\\| .*? \\| (?:`([^`]+)`)? ?\\| ")
	var examples []string
	for _, m := range settings.FindAllStringSubmatch(config.Reference(), -1) {
		examples = append(examples, m[1])
	}
	for _, m := range rows.FindAllStringSubmatch(config.Reference(), -1) {
		for _, value := range m[2:] {
			if value != "" {
				examples = append(examples, m[1]+"="+value)
			}
		}
	}
	if len(examples) < 30 {
		t.Fatalf("only %d examples were found: %q", len(examples), examples)
	}
	for _, example := range examples {
		t.Run("OK "+example, func(t *testing.T) {
			t.Parallel()
			name, value, _ := strings.Cut(example, "=")
			environ := []string{"SIKKER_API_KEY=" + testKey, example}
			if name == "SIKKER_API_KEY_FILE" || name == "SIKKER_CUSTOM_BLACKLIST" {
				if !filepath.IsAbs(value) {
					t.Errorf("%s is not an absolute path", value)
				}
				environ[1] = name + "=" + file
			}
			if name == "SIKKER_API_KEY_FILE" {
				environ = environ[1:]
			}
			if _, err := config.Load(environ); err != nil {
				t.Error(err)
			}
		})
	}
}
