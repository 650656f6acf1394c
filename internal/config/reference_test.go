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

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func TestReference(t *testing.T) {
	t.Parallel()
	const path = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(config.Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Reference(), string(got)); diff != "" {
		t.Errorf("docs/configuration.md is stale: go test ./internal/config -run TestReference -update writes it anew (-want +got):\n%s", diff)
	}
}

// TestReferenceExamples loads every default and every example of the page.
func TestReferenceExamples(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "list", testKey, 0o600) // a key file and a blacklist at once
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
					t.Errorf("%s is no absolute path", value)
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
