package status

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestFieldsAreExplained checks that docs/operations.md explains every field of /status.
func TestFieldsAreExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n### Fields of /status\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !found {
		t.Fatal("docs/operations.md has no section on the fields of /status")
	}
	var status any
	if err := json.Unmarshal([]byte(encode(t, sample())), &status); err != nil {
		t.Fatal(err)
	}
	for _, field := range fieldNames(status, "") {
		if !strings.Contains(section, "`"+field+"`") {
			t.Errorf("docs/operations.md does not explain the field %s", field)
		}
	}
}

// fieldNames returns the names of the fields in a JSON value, without those of maps whose names are
// data.
func fieldNames(value any, name string) []string {
	var names []string
	switch v := value.(type) {
	case map[string]any:
		for field, inner := range v {
			if name != "pulls" && name != "refused" && name != "hits" || field == "limit" {
				names = append(names, field)
			}
			names = append(names, fieldNames(inner, field)...)
		}
	case []any:
		for _, inner := range v {
			names = append(names, fieldNames(inner, name)...)
		}
	}
	return names
}
