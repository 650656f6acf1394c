// Command licenses prints the licences of all code that is linked into sikkerguard, as a binary
// must include them. It fails if a licence is not permissive or not known. Usage: licenses ROOT,
// the root of the repository.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) != 2 {
		_, _ = fmt.Fprintln(os.Stderr, "usage: licenses ROOT")
		return 2
	}
	out := bufio.NewWriter(os.Stdout)
	mods, err := linked(context.Background(), os.Args[1])
	if err == nil {
		err = errors.Join(notices(out, mods), out.Flush())
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "licenses:", err)
		return 1
	}
	return 0
}

const own = "github.com/sikkerapi/sikkerguard"

// module is a module whose code is in the binary.
type module struct{ path, version, dir string }

// linked returns the modules of the binary and the Go standard library.
func linked(ctx context.Context, root string) ([]module, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-f",
		"{{with .Module}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}", "./cmd/sikkerguard")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list dependencies: %w", err)
	}
	lines := strings.Fields(strings.ReplaceAll(string(raw), "\t", "\x00"))
	slices.Sort(lines)
	env := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION")
	rawEnv, err := env.Output()
	if err != nil {
		return nil, fmt.Errorf("find Go: %w", err)
	}
	goroot, goversion, _ := strings.Cut(strings.TrimSpace(string(rawEnv)), "\n")
	mods := []module{{"The Go standard library", goversion, goroot}}
	for _, line := range slices.Compact(lines) {
		f := strings.Split(line, "\x00")
		if len(f) == 3 && f[0] != own {
			mods = append(mods, module{f[0], f[1], f[2]})
		}
	}
	if len(mods) < 2 {
		return nil, errors.New("no dependencies found")
	}
	return mods, nil
}

// isLicence reports whether a file is a licence, by its name; there are many. A script that checks
// licences and the licence of a logo do not count.
func isLicence(name string) bool {
	name = strings.ToLower(name)
	return !strings.Contains(name, "logo") && slices.ContainsFunc([]string{
		"license", "licence", "copying", "notice", "patents", "copyright",
	},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// isPermitted reports whether our binary may contain code with a licence, by its SPDX name. All of
// these require at most that their text is included.
func isPermitted(id string) bool {
	switch id {
	case "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "Unlicense", "BlueOak-1.0.0", "CC0-1.0", "Zlib":
		return true
	}
	return false
}

// isHarmless reports the same for other texts that licensecheck finds beside a licence: grants of
// patents, variants, public domain.
func isHarmless(id string) bool {
	return slices.ContainsFunc([]string{"GooglePatent", "BSD-", "MIT-", "blessing", "PublicDomain"},
		func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// excused returns the licence of code that a module mentions in its survey of licences and that is
// not compiled into any binary. If the code is linked one day, it is a separate module here.
func excused(path, file string) string {
	if path == "modernc.org/sqlite" && file == "LICENSE-3RD-PARTY.md" {
		return "MPL-2.0" // of github.com/hashicorp/golang-lru, which is only in the module graph
	}
	return ""
}

// notices writes the licence files of each module and returns an error for each that is not
// permitted.
func notices(w io.Writer, mods []module) error {
	if _, err := fmt.Fprintf(w,
		"SikkerGuard is licensed under the Apache License 2.0. Its binary contains the work of others:\n"); err != nil {
		return err
	}
	rule := strings.Repeat("=", 100)
	var errs []error
	for _, m := range mods {
		texts, err := licences(m)
		if err != nil {
			errs = append(errs, err)
		}
		for _, t := range texts {
			if _, err := fmt.Fprintf(w, "\n%s\n%s %s: %s\n%s\n\n%s\n",
				rule, m.path, m.version, t.name, rule, bytes.TrimSpace(t.raw)); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

type text struct {
	name string
	raw  []byte
}

// licences reads the licence files in the root of a module. At least one must be a permitted
// licence, and all must be permitted.
func licences(m module) ([]text, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.path, err)
	}
	var (
		texts []text
		found bool
		errs  []error
	)
	for _, e := range entries {
		if e.IsDir() || !isLicence(e.Name()) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.path, err)
		}
		texts = append(texts, text{e.Name(), raw})
		ok, err := judge(raw, excused(m.path, e.Name()))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %s: %w", m.path, m.version, e.Name(), err))
		}
		found = found || ok
	}
	if !found && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s %s: no licence was recognised in %s", m.path, m.version, m.dir))
	}
	return texts, errors.Join(errs...)
}

// judge reports whether text is a permitted licence. It returns an error for any other licence but
// the excused one.
func judge(text []byte, excuse string) (bool, error) {
	found := false
	for _, match := range licensecheck.Scan(text).Match {
		if match.IsURL {
			continue
		}
		switch {
		case isPermitted(match.ID):
			found = true
		case match.ID != excuse && !isHarmless(match.ID):
			return false, fmt.Errorf("%s is not permitted in the binary", match.ID)
		}
	}
	return found, nil
}
