//go:build e2e

package e2e

import (
	"bytes"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// host is a machine with the simulator on its loopback, and the .deb at /shared.
type host struct {
	*nettest.Machine
	ns  *nettest.NS
	api *apisim.Sim
}

func newHost(t *testing.T) host {
	t.Helper()
	ns := nettest.New(t)
	h := host{Machine: nettest.Boot(ns), ns: ns}
	list := filepath.Join(t.TempDir(), "list")
	writeFile(t, list, "203.0.113.9\n198.51.100.0/24\n2001:db8:bad::1\n")
	var err error
	if h.api, err = apisim.New(apisim.Options{List: list, Key: testKey}); err != nil {
		t.Fatal(err)
	}
	var srv *httptest.Server
	ns.Do(func() { srv = httptest.NewServer(h.api) })
	t.Cleanup(srv.Close)
	build := exec.CommandContext(t.Context(), "../deploy/packaging/release", "all")
	build.Env = append(os.Environ(), "RELEASE_DIST="+filepath.Join(h.Shared, "dist"), "ARCHS=amd64", "VERSION=1.0.0",
		"GO=go", "LDFLAGS=-X main.version=1.0.0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build packages: %v\n%s", err, out)
	}
	h.write(t, "settings", "SIKKER_API_KEY="+testKey+"\nSIKKER_API_URL="+srv.URL+"\n")
	return h
}

// write makes a file at /shared.
func (h host) write(t *testing.T, name, text string) {
	t.Helper()
	writeFile(t, filepath.Join(h.Shared, name), text)
}

// unit returns a property of the service, from systemctl show.
func (h host) unit(property string) string {
	out, _ := h.Try("systemctl show --value --property=" + property + " sikkerguard.service")
	return strings.TrimSpace(out)
}

// blocks reports whether the kernel of the host has the list.
func (h host) blocks() bool {
	out, err := h.Try("nft list table inet sikkerguard")
	return err == nil && strings.Contains(out, "203.0.113.9")
}

// TestPackage installs the .deb on a machine with systemd and takes the service through its life:
// no key, a key, a reload, a start without the API, a hang, an upgrade, removal and purge.
func TestPackage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	checkRelease(t, filepath.Join(h.Shared, "dist"))
	h.Sh("rm -rf /var/lib/sikkerguard") // from the machine whose files these are
	const install = "dpkg --install /shared/dist/sikkerguard_1.0.0_amd64.deb"
	if out := h.Sh(install); !strings.Contains(out, "systemctl enable --now sikkerguard") {
		t.Errorf("the installation does not print the next step:\n%s", out)
	}
	if got := h.Sh("stat -c '%a %U %n' /usr/bin/sikkerguard /etc/sikkerguard/sikkerguard.env"); got !=
		"755 root /usr/bin/sikkerguard\n600 root /etc/sikkerguard/sikkerguard.env\n" {
		t.Errorf("files:\n%s", got)
	}
	if state := h.unit("UnitFileState"); state != "disabled" {
		t.Errorf("after the installation it is %s", state)
	}
	if out := h.Sh("systemd-analyze verify sikkerguard.service 2>&1"); strings.Contains(out, "sikkerguard") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	if out, err := h.Try("systemctl start sikkerguard"); err == nil {
		t.Errorf("it starts without a key: %s", out)
	}
	if log := h.Sh("journalctl --unit sikkerguard"); !strings.Contains(log, "SIKKER_API_KEY") {
		t.Errorf("the journal does not name the missing variable:\n%s", log)
	}
	if state, n := h.unit("ActiveState"), h.unit("NRestarts"); state != "failed" || n != "0" {
		t.Errorf("without a key it is %s and was restarted %s times", state, n)
	}

	h.Sh("systemctl reset-failed sikkerguard; cat /shared/settings >/etc/sikkerguard/sikkerguard.env")
	h.Sh("systemctl enable --now sikkerguard")
	h.Await("Blocking 3 IPs", func() bool { return h.unit("StatusText") == "Blocking 3 IPs" })
	if !h.blocks() {
		t.Error("the list is not in the kernel")
	}
	h.checkProcess(t)
	h.Sh("systemctl reload sikkerguard")
	if err := h.api.SetFault(apisim.Fault{Path: "/v1/key/blacklist", Status: 503}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Try("systemctl reload sikkerguard"); err == nil {
		t.Error("a reload succeeds while the API is down")
	}
	h.Await("degraded", func() bool { return strings.HasPrefix(h.unit("StatusText"), "Blocking 3 IPs, degraded: ") })

	h.Sh("systemctl restart sikkerguard") // ready only once the saved list is active
	if !h.blocks() {
		t.Error("after a restart without the API the saved list is not active")
	}
	h.hang(t)
	h.ends(t)
	h.journal(t)
	h.iptables(t)
	h.asRoot(t)
	h.credential(t)

	before := h.unit("MainPID")
	h.Sh(install)
	if after := h.unit("MainPID"); after == before || !h.blocks() {
		t.Errorf("an upgrade leaves process %s, now %s; blocking: %v", before, after, h.blocks())
	}
	h.Sh("dpkg --remove sikkerguard")
	if out, err := h.Try("nft list table inet sikkerguard"); err == nil {
		t.Errorf("after the removal:\n%s", out)
	}
	h.Sh("grep -q " + testKey +
		" /etc/sikkerguard/sikkerguard.env && test -s /var/lib/private/sikkerguard/blacklist.txt && " +
		"! test -e /usr/bin/sikkerguard")
	if out := h.Sh(install); !strings.Contains(out, "systemctl enable --now sikkerguard") ||
		h.unit("ActiveState") != "inactive" {
		t.Errorf("the installation after a removal does not print the next step:\n%s", out)
	}
	h.Sh("dpkg --purge sikkerguard && ! test -e /etc/sikkerguard && ! test -e /var/lib/sikkerguard && " +
		"! test -e /var/lib/private/sikkerguard")
}

// checkRelease checks that the names and checksums of the files of a release are right.
func checkRelease(t *testing.T, dist string) {
	t.Helper()
	sums := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	sums.Dir = dist
	out, err := sums.CombinedOutput()
	if err != nil || strings.Count(string(out), ": OK\n") != 4 {
		t.Errorf("checksums: %v\n%s", err, out)
	}
	out, err = exec.CommandContext(t.Context(), "tar", "-tzf",
		filepath.Join(dist, "sikkerguard_1.0.0_linux_amd64.tar.gz")).Output()
	for _, name := range []string{
		"sikkerguard", "LICENSE", "THIRD-PARTY-LICENSES", "SECURITY.md", "sikkerguard.service", "docs/systemd.md",
		"deploy/prometheus/alerts.yml",
	} {
		if err != nil || !strings.Contains(string(out), "sikkerguard_1.0.0_linux_amd64/"+name+"\n") {
			t.Errorf("the archive has no %s: %v\n%s", name, err, out)
		}
	}
	out, err = exec.CommandContext(t.Context(), "dpkg-deb", "--contents",
		filepath.Join(dist, "sikkerguard_1.0.0_amd64.deb")).Output()
	for _, page := range []string{"docs/systemd.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		if err != nil || !bytes.Contains(out, []byte(" ./usr/share/doc/sikkerguard/"+page+"\n")) {
			t.Errorf("the package lacks %s, to which its pages link: %v\n%s", page, err, out)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dist, "sikkerguard_1.0.0_linux_amd64.cdx.json"))
	if err != nil || !bytes.Contains(raw, []byte("pkg:golang/github.com/google/nftables@")) {
		t.Errorf("the SBOM lacks a linked module: %v", err)
	}
	raw, err = os.ReadFile(filepath.Join(dist, "sikkerguard-1.0.0-1.x86_64.rpm"))
	if err != nil || !bytes.HasPrefix(raw, []byte{0xed, 0xab, 0xee, 0xdb}) { // the first bytes of an rpm
		t.Errorf("no .rpm: %v", err)
	}
}

// checkProcess checks that the service runs as a separate user, with two capabilities and a filter
// of system calls.
func (h host) checkProcess(t *testing.T) {
	t.Helper()
	status := h.Sh("cat /proc/" + h.unit("MainPID") + "/status")
	const caps = "0000000000003000" // CAP_NET_ADMIN and CAP_NET_RAW
	for name, want := range map[string]string{
		"Uid": `6\d{4}`, "CapEff": caps, "CapPrm": caps, "CapBnd": caps, "CapAmb": caps, "NoNewPrivs": "1",
		"Seccomp": "2",
	} {
		if !regexp.MustCompile(`(?m)^` + name + `:\s+` + want + `\b`).MatchString(status) {
			t.Errorf("%s is not %s in\n%s", name, want, status)
		}
	}
	// This does not show errors that the sandbox causes and the agent tolerates.
	refused := regexp.MustCompile(`(?m) (WARN [^O]|ERROR )|not permitted|denied`)
	log := h.Sh("journalctl --unit sikkerguard --output cat")
	if refused.MatchString(log[strings.LastIndex(log, "Score threshold"):]) {
		t.Errorf("the journal:\n%s", log)
	}
}

// hang stops the process with a signal, as if it hung. The watchdog kills it and restarts it, with
// the list active.
func (h host) hang(t *testing.T) {
	t.Helper()
	h.Sh("mkdir -p /run/systemd/system/sikkerguard.service.d && " +
		"printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=0\n' " +
		">/run/systemd/system/sikkerguard.service.d/test.conf && systemctl daemon-reload && " +
		"systemctl restart sikkerguard")
	pid := h.unit("MainPID")
	h.Sh("kill -STOP " + pid)
	h.Await("the watchdog", func() bool {
		n, _ := strconv.Atoi(h.unit("NRestarts"))
		return n > 0 && h.unit("ActiveState") == "active"
	})
	if h.unit("MainPID") == pid || !h.blocks() {
		t.Errorf("after the watchdog: process %s, was %s; blocking: %v", h.unit("MainPID"), pid, h.blocks())
	}
	h.Sh("rm /run/systemd/system/sikkerguard.service.d/test.conf; systemctl daemon-reload")
}

// ends ends the service with a signal that systemd counts as a clean exit. It is restarted.
func (h host) ends(t *testing.T) {
	t.Helper()
	for _, signal := range []string{"TERM", "TERM", "TERM", "TERM", "TERM", "TERM"} { // more than StartLimitBurst
		pid := h.unit("MainPID")
		h.Sh("kill -" + signal + " " + pid)
		h.Await("another process after SIG"+signal, func() bool {
			return h.unit("MainPID") != pid && h.unit("ActiveState") == "active" && h.blocks()
		})
	}
}

// journal stops the journal and its sockets. The service logs without a reader and continues to
// work.
func (h host) journal(t *testing.T) {
	t.Helper()
	const units = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket " +
		"systemd-journald.service"
	pid := h.unit("MainPID")
	h.Sh("systemctl stop " + units)
	_, _ = h.Try("systemctl reload sikkerguard")
	_, _ = h.Try("systemctl reload sikkerguard")
	if now := h.unit("MainPID"); now != pid || !h.blocks() {
		t.Errorf("without the journal: process %s, was %s; blocking: %v", now, pid, h.blocks())
	}
	h.Sh("systemctl start " + units + "; systemctl restart sikkerguard")
}

// iptables runs the unchanged service with iptables-nft: without root it cannot see the rules of
// iptables-legacy.
func (h host) iptables(t *testing.T) {
	t.Helper()
	chains := func() string { return h.Sh("iptables-nft-save; ip6tables-nft-save; ipset save") }
	h.Sh("systemctl stop sikkerguard")
	h.Sh("(cat /shared/settings; echo SIKKER_BACKEND=iptables) >/etc/sikkerguard/sikkerguard.env && " +
		"systemctl start sikkerguard")
	if out := chains(); !strings.Contains(out, "SIKKERGUARD") || !strings.Contains(out, "203.0.113.9") {
		t.Errorf("with iptables nothing is blocked:\n%s", out)
	}
	h.Sh("systemctl stop sikkerguard")
	state, out := h.unit("ActiveState"), chains()
	if state != "inactive" || strings.Contains(strings.ToLower(out), "sikkerguard") {
		t.Errorf("after the stop it is %s, with\n%s\n%s", state, out,
			h.Sh("journalctl --unit sikkerguard --output cat | tail -n 20"))
	}
	h.Sh("cat /shared/settings >/etc/sikkerguard/sikkerguard.env && systemctl start sikkerguard")
}

// asRoot runs the service with the drop-in for iptables of docs/systemd.md: as root, and able to
// take the lock of iptables.
func (h host) asRoot(t *testing.T) {
	t.Helper()
	h.write(t, "drop-in", dropIn(t, "DynamicUser=no")+"ExecStartPre=/bin/sh -c ': >>/run/xtables.lock'\n")
	h.Sh("mkdir /etc/systemd/system/sikkerguard.service.d && " +
		"cp /shared/drop-in /etc/systemd/system/sikkerguard.service.d/test.conf && " +
		"systemctl daemon-reload && systemctl restart sikkerguard")
	if status := h.Sh("cat /proc/" + h.unit("MainPID") + "/status"); !strings.Contains(status, "Uid:\t0\t") ||
		!strings.Contains(status, "CapBnd:\t0000000000003000") || !h.blocks() {
		t.Errorf("blocking: %v, with\n%s", h.blocks(), status)
	}
	h.Sh("rm -r /etc/systemd/system/sikkerguard.service.d && systemctl daemon-reload && systemctl restart sikkerguard")
}

// credential passes the key only as a systemd credential, with the drop-in of docs/systemd.md.
func (h host) credential(t *testing.T) {
	t.Helper()
	h.write(t, "drop-in", dropIn(t, "LoadCredential="))
	h.write(t, "api_key", testKey+"\n")
	h.Sh("mkdir /etc/systemd/system/sikkerguard.service.d && " +
		"cp /shared/drop-in /etc/systemd/system/sikkerguard.service.d/test.conf && " +
		"cp /shared/api_key /etc/sikkerguard && sed -i /SIKKER_API_KEY=/d /etc/sikkerguard/sikkerguard.env && " +
		"systemctl daemon-reload && systemctl restart sikkerguard")
	if !h.blocks() {
		t.Error("with the key as a credential nothing is blocked")
	}
	h.Sh("rm -r /etc/systemd/system/sikkerguard.service.d && " +
		"cat /shared/settings >/etc/sikkerguard/sikkerguard.env && " +
		"systemctl daemon-reload && systemctl restart sikkerguard")
}

// dropIn returns the drop-in of docs/systemd.md that contains a setting.
func dropIn(t *testing.T, setting string) string {
	t.Helper()
	page := readFile(t, "../docs/systemd.md")
	for _, m := range regexp.MustCompile("(?s)```ini\n(.*?)```").FindAllStringSubmatch(page, -1) {
		if strings.Contains(m[1], setting) {
			return m[1]
		}
	}
	t.Fatalf("docs/systemd.md has no drop-in with %s", setting)
	return ""
}

// TestUnitExposure checks that the unit stays as restricted as it is.
func TestUnitExposure(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=20",
		"--no-pager",
		"../deploy/systemd/sikkerguard.service").CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
