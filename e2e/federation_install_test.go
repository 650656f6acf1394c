//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// installed does the part of apt in the commands of docs/fleet.md: the files of Debian's package,
// its user and its directory.
const installed = `
cd /shared
apt() {
	[[ ! -d prometheus ]] || tar -C prometheus -c . | tar -C / -x --keep-directory-symlink --no-overwrite-dir
	id prometheus >/dev/null 2>&1 || useradd --system prometheus
	mkdir -p /var/lib/prometheus && chown -R prometheus /var/lib/prometheus
}
`

// TestFederationCommands runs the commands of docs/fleet.md for a host and for the central one, on
// a machine with systemd.
func TestFederationCommands(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	m := nettest.Boot(ns)
	if err := os.CopyFS(filepath.Join(m.Shared, "deploy"), os.DirFS("../deploy")); err != nil {
		t.Fatal(err)
	}
	program := promProgram(t, "prometheus")
	if unpacked := strings.TrimSuffix(program, "/usr/bin/prometheus"); strings.HasSuffix(unpacked, "/bin/prometheus") {
		if err := os.CopyFS(filepath.Join(m.Shared, "prometheus"), os.DirFS(unpacked)); err != nil {
			t.Fatal(err)
		}
	}
	_, page, _ := strings.Cut(readFile(t, "../docs/fleet.md"), "## Prometheus\n")
	client := http.Client{
		Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: fleet{ns: ns}.dial},
	}
	for _, tt := range []struct{ host, want string }{
		{"a host", "job_name: sikkerguard\\n"}, {"the central one", "job_name: sikkerguard-fleet\\n"},
	} {
		var commands string
		var ok bool
		if _, page, ok = strings.Cut(page, "```sh\n"); ok {
			commands, page, ok = strings.Cut(page, "```")
		}
		if !ok {
			t.Fatalf("docs/fleet.md has no commands for %s", tt.host)
		}
		writeFile(t, filepath.Join(m.Shared, "commands"), installed+commands)
		m.Sh("bash -eu /shared/commands")
		m.Await(tt.host, func() bool { return strings.Contains(get(t, client, "/api/v1/status/config"), tt.want) })
	}
	m.Sh("nft list table inet prometheus") // from the first commands; loaded at each start
}

// get returns an answer of the Prometheus on loopback, empty while there is none.
func get(t *testing.T, client http.Client, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+promAddress+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	raw, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return string(raw)
}
