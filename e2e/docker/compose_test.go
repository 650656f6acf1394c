//go:build e2e_docker

package docker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	image     = "sikkerguard"
	container = "sikkerguard"
	version   = "1.2.3-e2e"
)

// TestCompose runs an operator's day with compose.yaml on the engine of this machine.
func TestCompose(t *testing.T) {
	w := newWorld(t, "")
	w.day(t, func(t *testing.T, version string) {
		t.Helper()
		w.build(t, version)
		w.leaveImages(t)
	})
	t.Run("500,000 entries", func(t *testing.T) {
		w.begin(t)
		w.manyEntries(t)
	})
}

// TestComposeOnDebian13 runs the same day with the engine, Compose, nft and iptables of Debian 13.
// If it runs alone, that Compose also builds the image.
func TestComposeOnDebian13(t *testing.T) {
	w := newWorld(t, debian13(t))
	w.hasDebianPrograms(t)
	w.day(t, w.loadOrBuild)
}

// day is an operator's day with an image that obtain makes. Its parts depend on each other.
func (w *world) day(t *testing.T, obtain func(t *testing.T, version string)) {
	t.Helper()
	w.project(t)
	t.Run("build", func(t *testing.T) {
		w.begin(t)
		w.sources(t)
		obtain(t, version)
		w.isBuilt(t)
	})
	t.Run("read compose files", func(t *testing.T) {
		w.begin(t)
		w.monitoring(t)
	})
	var before string
	t.Run("before", func(t *testing.T) {
		w.begin(t)
		w.services(t)
		w.serves(t, "203.0.113.9\n2001:db8:bad::/48\n")
		w.apiUp(t)
		w.allReach(t)
		before = w.ruleset()
	})
	t.Run("up", func(t *testing.T) {
		w.begin(t)
		w.compose(t, "up", "-d", "--no-build")
		w.healthy(t)
		w.enforces(t)
		w.listsTable(t)
		w.isConfined(t)
		w.hasPrograms(t)
		w.guardsTheHost(t)
	})
	t.Run("restart while the API is down", func(t *testing.T) {
		w.begin(t)
		w.apiDown(t)
		w.compose(t, "restart")
		w.healthy(t)
		w.enforces(t)
	})
	t.Run("kill", func(t *testing.T) {
		w.begin(t)
		w.docker(t, "kill", container)
		w.isBefore(t, before)
		w.allReach(t)
	})
	t.Run("start after a kill", func(t *testing.T) {
		w.begin(t)
		w.apiUp(t)
		w.compose(t, "up", "-d", "--no-build")
		w.healthy(t)
		w.enforces(t)
	})
	t.Run("down", func(t *testing.T) {
		w.begin(t)
		w.compose(t, "down", "-v")
		w.isBefore(t, before)
		w.allReach(t)
	})
	t.Run("a setting that is not valid", func(t *testing.T) {
		w.begin(t)
		w.invalid(t)
	})
	t.Run("a container's own network", func(t *testing.T) {
		w.begin(t)
		w.warnsOfBridge(t)
	})
}

// begin begins a part. After a failure all later parts are skipped. A part that fails shows the
// logs.
func (w *world) begin(t *testing.T) {
	t.Helper()
	if w.failed {
		t.Skip("an earlier part failed")
	}
	t.Cleanup(func() {
		if w.failed = t.Failed(); !w.failed {
			return
		}
		t.Logf("the engine:\n%s", w.log(t))
		out, err := w.try("logs", container)
		t.Logf("the agent (%v):\n%s", err, out)
	})
}

// isBuilt checks the promises of the Dockerfile.
func (w *world) isBuilt(t *testing.T) {
	t.Helper()
	want := "sikkerguard " + version + " (commit 0123456789ab) "
	got := w.docker(t, "run", "--rm", "--network", "none", "--read-only", image, "version")
	if !strings.HasPrefix(got, want) {
		t.Errorf("version is %q, want %q", got, want)
	}
	for label, want := range map[string]string{"version": version, "revision": "0123456789ab"} {
		got := w.docker(t, "image", "inspect", "-f",
			`{{index .Config.Labels "org.opencontainers.image.`+label+`"}}`, image)
		if got != want {
			t.Errorf("label org.opencontainers.image.%s is %q, want %q", label, got, want)
		}
	}
	licences := w.docker(t, "run", "--rm", "--network", "none", "--entrypoint", "cat",
		image, "/usr/share/doc/sikkerguard/copyright")
	for _, want := range []string{"Apache License", "github.com/google/nftables v"} {
		if !strings.Contains(licences, want) {
			t.Errorf("the licences in the image lack %q", want)
		}
	}
}

// monitoring has Compose read all files that docs/docker.md has the operator list in .env, and
// checks that all files they mount exist.
func (w *world) monitoring(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile("../../docs/docker.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^COMPOSE_FILE=\S+$`).Find(page)
	env, err := os.ReadFile(filepath.Join(w.dir, ".env"))
	override := filepath.Join(w.dir, "compose.override.yaml")
	err = errors.Join(err,
		os.WriteFile(filepath.Join(w.dir, "with.env"), slices.Concat(env, line, []byte("\n")), 0o600),
		os.WriteFile(override, []byte("services: {sikkerguard: {environment: {SIKKER_SCORE_MIN: 61}}}\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	read := w.within("sh", "-c", "cd "+w.dir+" && "+strings.Join(w.client, " ")+" --env-file with.env config")
	out := w.must(t, read[0], read[1:]...)
	if err := os.Remove(override); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"SIKKER_SCORE_MIN: 61", "image: prom/prometheus", "image: grafana/grafana", "COMMIT: 0123456789ab",
	} {
		if !strings.Contains(strings.NewReplacer("'", "", `"`, "").Replace(out), want) {
			t.Errorf("with %s Compose does not read %q:\n%s", line, want, out)
		}
	}
	mounts := regexp.MustCompile(regexp.QuoteMeta(w.dir)+`/deploy[^:\s]*`).FindAllString(out, -1)
	if len(mounts) != 3 {
		t.Errorf("mounts %q, want three", mounts)
	}
	for _, m := range mounts {
		if _, err := os.Stat(m); err != nil {
			t.Error(err)
		}
	}
}

// isConfined checks the privileges of the agent in the kernel: NET_ADMIN and NET_RAW, and no way to
// more.
func (w *world) isConfined(t *testing.T) {
	t.Helper()
	status := w.docker(t, "exec", container, "cat", "/proc/1/status")
	for _, want := range []string{"CapEff:\t0000000000003000", "CapBnd:\t0000000000003000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			t.Errorf("/proc/1/status of the agent lacks %q:\n%s", want, status)
		}
	}
	if out, err := w.try("exec", container, "touch", "/usr/local/bin/new"); err == nil {
		t.Errorf("the container's file system can be written to: %s", out)
	}
}

// hasPrograms runs the programs that the agent needs on a host without nf_tables, with the
// capabilities of compose.yaml.
func (w *world) hasPrograms(t *testing.T) {
	t.Helper()
	for _, program := range []string{
		"iptables-legacy-restore", "ip6tables-legacy-restore", "iptables-nft-restore", "ipset",
	} {
		w.docker(t, "exec", container, program, "--version")
	}
}

// containerOnly begins the warning that the agent does not protect the machine.
const containerOnly = "WARN Only this container (network namespace) is protected"

// guardsTheHost checks that an agent on the host's network does not mistake it for that of a
// container.
func (w *world) guardsTheHost(t *testing.T) {
	t.Helper()
	if log := w.docker(t, "logs", container); strings.Contains(log, containerOnly) {
		t.Errorf("on the host's network the agent says:\n%s", log)
	}
}

// warnsOfBridge starts the agent without network_mode, which operators may forget: on Docker's own
// bridge, and on a network that was made by name, as Compose makes one.
func (w *world) warnsOfBridge(t *testing.T) {
	t.Helper()
	w.docker(t, "network", "create", "named")
	for _, network := range []string{"bridge", "named"} {
		name := "on-" + network
		w.docker(t, "run", "-d", "--name", name, "--network", network, "--cap-add", "NET_ADMIN",
			"-e", "SIKKER_API_KEY="+testKey, "-e", "SIKKER_API_URL=http://127.0.0.1:9", image)
		await(t, "a warning on network "+network,
			func() bool { return strings.Contains(w.docker(t, "logs", name), containerOnly) })
		w.docker(t, "rm", "-f", name)
	}
	w.docker(t, "network", "rm", "named")
}

// healthy waits until Docker reports the container as healthy.
func (w *world) healthy(t *testing.T) {
	t.Helper()
	await(t, "a healthy container", func() bool {
		state := w.docker(t, "inspect", "-f", "{{.State.Status}} {{.State.Health.Status}}", container)
		if strings.HasPrefix(state, "exited") || strings.HasPrefix(state, "restarting") {
			t.Fatalf("the container is %s", state)
		}
		return state == "running healthy"
	})
}

// reaches checks that the service of the host and the one in a container answer the source, and
// that both see its own address: Docker's port works by address translation, not by its proxy.
func (w *world) reaches(t *testing.T, src netip.Addr) {
	t.Helper()
	for _, port := range []uint16{hostPort, publishedPort} {
		if seen, err := w.knock(src, port); err != nil || seen != src.String() {
			t.Errorf("%s knocks on port %d and is seen as %q (%v)", src, port, seen, err)
		}
	}
}

// allReach checks that no source is blocked.
func (w *world) allReach(t *testing.T) {
	t.Helper()
	listed, unlisted := sources()
	for _, src := range append(listed, unlisted...) {
		await(t, fmt.Sprintf("services that see %s", src), func() bool {
			seen, err := w.knock(src, publishedPort)
			return err == nil && seen == src.String()
		})
		w.reaches(t, src)
	}
}

// enforces checks that listed sources get no answer, neither from the host nor from a container,
// and others do.
func (w *world) enforces(t *testing.T) {
	t.Helper()
	listed, unlisted := sources()
	since := w.docker(t, "inspect", "-f", "{{.State.StartedAt}}", container)
	var blocked []string
	for _, src := range listed {
		for _, port := range []uint16{hostPort, publishedPort} {
			seen, err := w.knock(src, port)
			if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
				t.Errorf("%s, which is listed, knocks on port %d: seen as %q (%v), want no answer",
					src, port, seen, err)
			}
			blocked = append(blocked, fmt.Sprintf("BLOCKED %s ", netip.AddrPortFrom(src, port)))
		}
	}
	for _, src := range unlisted {
		w.reaches(t, src)
	}
	for _, line := range blocked {
		await(t, line, func() bool { return strings.Contains(w.docker(t, "logs", "--since", since, container), line) })
	}
}

// listsTable checks that the operator can list the table in the container and on the host.
func (w *world) listsTable(t *testing.T) {
	t.Helper()
	onHost := []string{"nft", "list", "table", "inet", "sikkerguard"}
	if w.root != "" {
		onHost = append([]string{"chroot", w.root}, onHost...)
	}
	for where, text := range map[string]string{
		"in the container": w.docker(t, "exec", container, "nft", "list", "table", "inet", "sikkerguard"),
		"on the host":      w.host.Run(onHost[0], onHost[1:]...),
	} {
		for _, want := range []string{"table inet sikkerguard", "203.0.113.9", "2001:db8:bad::", "priority raw"} {
			if !strings.Contains(text, want) {
				t.Errorf("nft list table %s lacks %q:\n%s", where, want, text)
			}
		}
	}
}

// isBefore checks that the ruleset of the host is unchanged.
func (w *world) isBefore(t *testing.T, before string) {
	t.Helper()
	if diff := cmp.Diff(before, w.ruleset()); diff != "" {
		t.Errorf("the ruleset of the host has changed (-before +now):\n%s", diff)
	}
}

// quickHealth makes Docker check the health often and from the start, so that a test sees
// "unhealthy" after seconds. The image waits a minute and a half.
const quickHealth = `services:
  sikkerguard:
    healthcheck:
      test: [CMD, /usr/local/bin/sikkerguard, healthcheck]
      start_period: 1s
      interval: 2s
      timeout: 6s
      retries: 3
`

// invalid has an invalid setting. The container stays up, unhealthy and with the reason, and is not
// restarted for ever. After the correction, `docker compose up -d` is enough.
func (w *world) invalid(t *testing.T) {
	t.Helper()
	path := filepath.Join(w.dir, ".env")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(slices.Clone(good), "\nSIKKER_SCORE_MIN=101\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	quick := filepath.Join(w.dir, "quick.yaml")
	if err := os.WriteFile(quick, []byte(quickHealth), 0o600); err != nil {
		t.Fatal(err)
	}
	w.compose(t, "-f", quick, "up", "-d", "--no-build")
	await(t, "the reason in the health check", func() bool {
		out, err := w.try("exec", container, "sikkerguard", "healthcheck")
		return err != nil && strings.Contains(out+err.Error(), "SIKKER_SCORE_MIN")
	})
	await(t, "an unhealthy container", func() bool {
		state := w.docker(t, "inspect", "-f", "{{.State.Status}} {{.RestartCount}} {{.State.Health.Status}}", container)
		if !strings.HasPrefix(state, "running 0 ") {
			t.Fatalf("the container is %q, want running 0", state)
		}
		return strings.HasSuffix(state, " unhealthy")
	})
	logs := w.within("sh", "-c", "docker logs "+container+" 2>&1")
	if log := w.must(t, logs[0], logs[1:]...); strings.Count(log, "SIKKER_SCORE_MIN") != 1 {
		t.Errorf("the log does not have the reason once:\n%s", log)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.compose(t, "up", "-d", "--no-build")
	w.healthy(t)
	w.enforces(t)
	w.compose(t, "down", "-v")
}

// manyEntries loads and refreshes half a million addresses within the memory limit of compose.yaml.
func (w *world) manyEntries(t *testing.T) {
	t.Helper()
	const entries = 500_000
	var list strings.Builder
	for i, a := 0, netip.MustParseAddr("20.0.0.1").As4(); i < entries; i++ {
		a[1], a[2], a[3] = byte(i>>15), byte(i>>7), byte(i<<1|1) // every other address, so that none merge
		list.WriteString(netip.AddrFrom4(a).String() + "\n")
	}
	w.serves(t, list.String())
	w.compose(t, "up", "-d", "--no-build")
	w.healthy(t)
	list.WriteString("203.0.113.9\n")
	w.serves(t, list.String())
	w.docker(t, "exec", container, "sikkerguard", "pull")
	var status struct{ BlockedIPs int }
	if err := w.get("http://127.0.0.1:8080/status", &status); err != nil || status.BlockedIPs != entries+1 {
		t.Errorf("%d entries are blocked, want %d (%v)", status.BlockedIPs, entries+1, err)
	}
	if state := w.docker(t, "inspect", "-f", "{{.State.OOMKilled}} {{.RestartCount}}", container); state != "false 0" {
		t.Errorf("killed for memory, and restarts: %s, want false 0", state)
	}
	t.Logf("memory of the container at its peak, bytes: %s", w.docker(t, "exec", container, "sh", "-c",
		"cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes /sys/fs/cgroup/memory.peak 2>/dev/null || true"))
	w.compose(t, "down", "-v")
}
