//go:build e2e_docker

package docker

import (
	"os"
	"regexp"
	"testing"
)

// TestVersion checks that all written versions agree: an image that Compose builds has that of the
// Dockerfile.
func TestVersion(t *testing.T) {
	t.Parallel()
	find := func(path, pattern string) []string {
		raw, err := os.ReadFile("../../" + path)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(raw), -1) {
			found = append(found, m[1])
		}
		return found
	}
	makefile, dockerfile := find("Makefile", `(?m)^VERSION \?= (\S+)$`), find("Dockerfile", `(?m)^ARG VERSION=(\S+)$`)
	if len(makefile) != 1 || len(dockerfile) != 2 {
		t.Fatalf("the Makefile has versions %q and the Dockerfile %q, want one and two", makefile, dockerfile)
	}
	for _, v := range dockerfile {
		if v != makefile[0] {
			t.Errorf("the Dockerfile has version %s, and the Makefile %s", v, makefile[0])
		}
	}
}
