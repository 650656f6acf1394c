package main

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const project = "../.."

// pages returns the text of each page of the project by its path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(project + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} {
		paths = append(paths, filepath.Join(project, name))
	}
	texts := map[string]string{}
	for _, path := range paths {
		texts[path] = read(t, path)
	}
	return texts
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// anchors returns the anchors that GitHub makes for the headings of a page.
func anchors(page string) []string {
	var all []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			default:
				return -1
			}
		}, heading[1]))
	}
	return all
}

// TestPageLinks checks that the file and the heading of every link between the pages exist.
func TestPageLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	links := 0
	for path, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(page, -1) {
			name, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(name, "://") {
				continue
			}
			links++
			target := path
			if name != "" {
				target = filepath.Join(filepath.Dir(path), name)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the file of link %s does not exist", path, m[1])
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s has no heading for the link %s", path, target, m[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

// TestPagesNameRealThings checks that the make targets and variables named on the pages exist.
func TestPagesNameRealThings(t *testing.T) {
	t.Parallel()
	makefile, variables := read(t, project+"/Makefile"), read(t, project+"/.env.example")
	target := regexp.MustCompile("(?m)(?:`|^)make ([a-z0-9]+)")
	variable := regexp.MustCompile(`\bSIKKER_[A-Z_]+[A-Z]\b`)
	for path, page := range pages(t) {
		for _, m := range target.FindAllStringSubmatch(page, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: there is no make %s", path, m[1])
			}
		}
		for _, name := range variable.FindAllString(page, -1) {
			if !strings.Contains(variables, name+"=") {
				t.Errorf("%s: there is no variable %s", path, name)
			}
		}
	}
}

// TestOperationsQuotesMessages checks that each text quoted in docs/operations.md is in the program,
// so that an operator can search the page for a message. An ellipsis stands for values.
func TestOperationsQuotesMessages(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, dir := range []string{"cmd", "internal", "pkg"} {
		err := filepath.WalkDir(filepath.Join(project, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			sources.WriteString(read(t, path))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	source := regexp.MustCompile(`" \+\s*"`).ReplaceAllString(sources.String(), "") // a text over several lines
	_, section, _ := strings.Cut(read(t, project+"/docs/operations.md"), "\n## Messages and remedies\n")
	section, _, _ = strings.Cut(section, "\n## ")
	quoted := 0
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(section, -1) {
		for _, text := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			quoted++
			for part := range strings.SplitSeq(text[1], "…") {
				if part = strings.TrimSpace(part); !strings.Contains(source, part) {
					t.Errorf("docs/operations.md quotes %q, which the program does not print", part)
				}
			}
		}
	}
	if quoted < 25 {
		t.Errorf("only %d quoted messages were found", quoted)
	}
}

// packages returns the directory of each package of internal, from the root of the project.
func packages(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(project+"/internal", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") {
			found[strings.TrimPrefix(filepath.Dir(path), project+"/")] = true
		}
		return err
	})
	if err != nil || len(found) < 20 {
		t.Fatalf("%d packages: %v", len(found), err)
	}
	return slices.Sorted(maps.Keys(found))
}

// TestArchitectureNamesEveryPackage checks that the map in docs/architecture.md has each package of
// internal.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	t.Parallel()
	page := read(t, project+"/docs/architecture.md")
	for _, name := range packages(t) {
		if !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("docs/architecture.md has no row for %s", name)
		}
	}
}

// TestDepguardHasARowForEveryPackage checks that the linter has a list of the imports of each
// package of internal. A package without one could import every other.
func TestDepguardHasARowForEveryPackage(t *testing.T) {
	t.Parallel()
	rules := read(t, project+"/.golangci.yml")
	for _, name := range packages(t) {
		row := regexp.MustCompile(`list-mode: strict\n +files: \["\*\*/` + regexp.QuoteMeta(name) +
			`/\*(\*|\.go)", "!\$test"\]`)
		if !row.MatchString(rules) {
			t.Errorf(".golangci.yml has no strict list of the imports of %s", name)
		}
	}
}
