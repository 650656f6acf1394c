package iptables

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// asking is a shell pattern of the runs of ipset that change nothing.
const asking = `*ipset\ list*|*ipset\ save*|*ipset\ -`

// recorder is a directory of programs that record their changes of the host.
type recorder struct {
	t   *testing.T
	dir string
}

// record makes the programs of one kind. before is a line of shell that runs before `ipset restore`
// or `ipset swap`: $in is a file with its input.
func record(t *testing.T, kind, before string) recorder {
	t.Helper()
	r := recorder{t: t, dir: t.TempDir()}
	changing := []string{"ipset"}
	for _, p := range []string{"iptables-", "ip6tables-"} {
		link(t, p+kind, r.dir)
		link(t, p+kind+"-save", r.dir)
		changing = append(changing, p+kind+"-restore")
	}
	for _, name := range changing {
		program(t, r.dir, name, fmt.Sprintf(`
case "$0 $*" in %[1]s) exec /usr/sbin/%[2]s "$@" ;; esac
echo "%[2]s $*" >> %[3]s/changes
in=%[3]s/input
case "$*" in swap*|destroy*|rename*) : > $in ;; *) cat > $in; cat $in >> %[3]s/inputs ;; esac
case "%[2]s" in ipset) %[4]s ;; esac
/usr/sbin/%[2]s "$@" < $in`, asking, name, r.dir, before+"\n:"))
	}
	return r
}

// take returns the runs of programs that changed the host since the previous call, and their input.
func (r recorder) take() (runs []string, input string) {
	r.t.Helper()
	read := func(name string) string {
		file := filepath.Join(r.dir, name)
		raw, err := os.ReadFile(file)
		if err == nil {
			err = os.Remove(file)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			r.t.Fatal(err)
		}
		return string(raw)
	}
	return strings.Split(strings.TrimSuffix(read("changes"), "\n"), "\n"), read("inputs")
}

// elementsIn returns the elements of the sets of lists in the kernel, sorted, one on each line.
func elementsIn(t *testing.T, h *nettest.Host) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(h.Run("ipset", "save")) {
		if strings.HasPrefix(line, "add sikkerguard-blocklist") || strings.HasPrefix(line, "add sikkerguard-whitelist") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// filled returns the elements of the sets of rs, filled whole on a host of its own.
func filled(t *testing.T, f *Firewall, h *nettest.Host, rs ruleset.Ruleset) string {
	t.Helper()
	var script strings.Builder
	if _, err := fillScript(f.translate(rs).sets()...).WriteTo(&script); err != nil {
		t.Fatal(err)
	}
	h.Run("ipset", "destroy")
	restoreSets(t, h, script.String())
	return elementsIn(t, h)
}

// restoreSets runs `ipset restore` with the script.
func restoreSets(t *testing.T, h *nettest.Host, script string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Run("ipset", "restore", "-file", file)
}
