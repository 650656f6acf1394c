// Command licenses prints the licences of everything that is linked into sikkerguard, as a binary has to carry them, and
// fails when one is not permissive or not known: licenses ROOT, which is the root of the repository.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	mods, err := linked(os.Args[1])
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

// module is one whose code is in the binary.
type module struct{ path, version, dir string }

// linked are the modules that the binary is made of, and Go's own library.
func linked(root string) ([]module, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}", "./cmd/sikkerguard")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list dependencies: %w", err)
	}
	lines := strings.Fields(strings.ReplaceAll(string(raw), "\t", "\x00"))
	slices.Sort(lines)
	env := exec.Command("go", "env", "GOROOT", "GOVERSION")
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

var (
	// licence files have many names; a script that checks licences is none.
	licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)[^/]*$`)
	// permitted are the SPDX names of the licences that a binary of ours may carry. All ask at most for their text.
	permitted = map[string]bool{
		"Apache-2.0": true, "BSD-2-Clause": true, "BSD-3-Clause": true, "ISC": true, "MIT": true, "Unlicense": true,
		"BlueOak-1.0.0": true, "CC0-1.0": true, "Zlib": true,
	}
	// extra says what licensecheck calls texts that are permitted too.
	extra = regexp.MustCompile(`^(GooglePatentClause|GooglePatentsFile|BSD-.*|MIT-.*|blessing|PublicDomain.*)$`)
)

// surveys are files that also name licences of what is not compiled into anything, and which those are. Should it be linked
// one day, it is a module of its own here.
var surveys = map[string]string{
	"modernc.org/sqlite LICENSE-3RD-PARTY.md": "MPL-2.0", // of github.com/hashicorp/golang-lru, in the module graph alone
}

// notices writes each module's licence files, and returns what is wrong with any of them.
func notices(w io.Writer, mods []module) error {
	if _, err := fmt.Fprintf(w, "SikkerGuard is licensed under the Apache License 2.0. Its binary contains the work of others:\n"); err != nil {
		return err
	}
	var errs []error
	for _, m := range mods {
		texts, err := licences(m)
		if err != nil {
			errs = append(errs, err)
		}
		for _, t := range texts {
			if _, err := fmt.Fprintf(w, "\n%s\n%s %s: %s\n%s\n\n%s\n", rule, m.path, m.version, t.name, rule, bytes.TrimSpace(t.raw)); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

var rule = strings.Repeat("=", 100)

type text struct {
	name string
	raw  []byte
}

// licences reads the files of a module's root. At least one must be a permitted licence, and none may be another.
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
		if e.IsDir() || !licenceFile.MatchString(e.Name()) || strings.Contains(strings.ToUpper(e.Name()), "LOGO") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.path, err)
		}
		texts = append(texts, text{e.Name(), raw})
		ok, err := judge(raw, surveys[m.path+" "+e.Name()])
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

// judge tells whether text is a licence that is permitted, and refuses one that holds another, unless it is the excused one.
func judge(text []byte, excused string) (bool, error) {
	found := false
	for _, match := range licensecheck.Scan(text).Match {
		if match.IsURL {
			continue
		}
		switch {
		case permitted[match.ID]:
			found = true
		case match.ID != excused && !extra.MatchString(match.ID):
			return false, fmt.Errorf("%s is not permitted in the binary", match.ID)
		}
	}
	return found, nil
}
