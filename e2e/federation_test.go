//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestFederation has two hosts, each with an agent and a Prometheus with the shipped configuration,
// and a central Prometheus that distinguishes them. On one host the whole list is missing, on the
// other the agent is stopped.
func TestFederation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin := filepath.Join(dir, "sikkerguard")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/sikkerguard").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	central := nettest.New(t)
	hosts, names := "", []string{"web1.example.net", "web2.example.net"}
	stop := map[string]func(){}
	for i, name := range names {
		addr, dev := fmt.Sprintf("10.0.0.1%d", i+1), fmt.Sprintf("host%d", i+1)
		ns := nettest.New(t)
		nettest.Link(central, ns, dev, single("10.0.0.5"), single(addr))
		central.Run("ip", "route", "add", addr, "dev", dev)
		ns.DefaultRoute(dev)
		hosts += addr + " " + name + "\n"
		if i == 0 {
			checkClosed(t, central, ns, addr+":9090")
		}
		stop[name] = spawnIn(t, ns, []string{
			"SIKKER_API_KEY=" + testKey, "SIKKER_API_URL=http://127.0.0.1:1", "SIKKER_STATE_DIR=" + filepath.Join(dir,
				name),
		}, bin)
		startPrometheus(t, ns, "prometheus.yml", addr+":9090", "")
	}
	startPrometheus(t, central, "fleet.yml", "127.0.0.1:9090", hosts)

	instances := func(expr string) []string { return askPrometheus(t, central, expr) }
	for _, expr := range []string{
		`up{job="sikkerguard"} == 1`, `up{job="sikkerguard-fleet"} == 1`,
		`sum by (instance) (sikkerguard_healthy) == 0`,
		`ALERTS{alertname="SikkerGuardNotEnforcing",alertstate="firing"}`,
	} {
		awaitInstances(t, expr, names, instances)
	}
	stop["web2.example.net"]()
	awaitInstances(t, `ALERTS{alertname="SikkerGuardDown",alertstate="firing"}`, names[1:], instances)
}

// single returns the prefix of one address, in a list.
func single(addr string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(addr + "/32")} }

func awaitInstances(t *testing.T, expr string, want []string, ask func(string) []string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(patience); !slices.Equal(got, want); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("instances of %s (-want +got):\n%s", expr, cmp.Diff(want, got))
		}
		got = ask(expr)
	}
}

// checkClosed checks that deploy/fleet/prometheus.nft, loaded twice, blocks a host that is not the
// central one.
func checkClosed(t *testing.T, central, host *nettest.NS, addr string) {
	t.Helper()
	for range 2 {
		host.Run("nft", "-f", "../deploy/fleet/prometheus.nft")
	}
	central.Run("ip", "address", "add", "10.0.0.6/32", "dev", "lo")
	doneC := make(chan error, 1)
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 6)}}
	go func() {
		central.Do(func() {
			c, err := dialer.DialContext(t.Context(), "tcp4", addr)
			if err == nil {
				_ = c.Close()
			}
			doneC <- err
		})
	}()
	dropped := regexp.MustCompile(`10\.0\.0\.5 counter packets [1-9]`)
	for end := time.Now().Add(patience); !dropped.MatchString(host.Run("nft", "list", "table", "inet", "prometheus")); {
		select {
		case err := <-doneC:
			t.Fatalf("a connection from elsewhere is not dropped: %v", err) // there is no listener yet: refused
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("nothing came")
		}
	}
}

// startPrometheus starts a Prometheus with a configuration of deploy, with short intervals, and the
// names of hosts.
func startPrometheus(t *testing.T, ns *nettest.NS, config, listen, hosts string) {
	t.Helper()
	dir := t.TempDir()
	fast := regexp.MustCompile(`(_interval): 30s|(for): \d+[mh]`)
	for _, name := range []string{config, "alerts.yml", "fleet_alerts.yml", "fleet_hosts.yml"} {
		writeFile(t, filepath.Join(dir, name),
			fast.ReplaceAllStringFunc(readFile(t, filepath.Join(deployed, name)), func(s string) string {
				return s[:strings.Index(s, ":")] + ": 1s"
			}))
	}
	writeFile(t, filepath.Join(dir, "hosts"), "127.0.0.1 localhost\n"+hosts)
	spawnIn(t, ns, nil, "unshare", "--mount", "bash", "-euc",
		`mount --bind "$1/hosts" /etc/hosts; shift; exec "$@"`, "bash", dir,
		promProgram(t, "prometheus"), "--config.file="+filepath.Join(dir, config),
		"--storage.tsdb.path="+filepath.Join(dir, "tsdb"),
		"--web.listen-address="+listen)
}

// spawnIn starts a program in a namespace. It ends with the test, or when the returned function is
// called.
func spawnIn(t *testing.T, ns *nettest.NS, env []string, name string, args ...string) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		_ = cmd.Wait()
	}()
	stop = func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		<-doneC
	}
	t.Cleanup(func() {
		stop()
		_ = log.Close()
		if raw, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s: %s", filepath.Base(name), raw)
		}
	})
	return stop
}

// askPrometheus returns the instances in the answer to a query, sorted; none while Prometheus does
// not answer.
func askPrometheus(t *testing.T, ns *nettest.NS, expr string) (instances []string) {
	t.Helper()
	var raw []byte
	ns.Do(func() {
		client := http.Client{
			Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: fleet{ns: ns}.dial},
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			"http://"+promAddress+"/api/v1/query?query="+url.QueryEscape(expr), nil)
		if err != nil {
			return
		}
		res, err := client.Do(req)
		if err != nil {
			return
		}
		defer func() { _ = res.Body.Close() }()
		raw, _ = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	})
	var answer struct {
		Data struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if json.Unmarshal(raw, &answer) != nil {
		return nil
	}
	for _, r := range answer.Data.Result {
		instances = append(instances, r.Metric["instance"])
	}
	slices.Sort(instances)
	return instances
}

// TestNodes runs the Prometheus of docs/kubernetes.md on two nodes, which send to a central one.
func TestNodes(t *testing.T) {
	t.Parallel()
	_, page, _ := strings.Cut(readFile(t, "../docs/kubernetes.md"), "```yaml\n")
	config, _, ok := strings.Cut(page, "```")
	if !ok {
		t.Fatal("docs/kubernetes.md has no configuration")
	}
	const service = "http://prometheus.monitoring.svc:9090"
	for _, r := range [][2]string{
		{service, "http://10.0.0.5:9090"}, {"global:\n", "global:\n  scrape_interval: 1s\n"},
	} {
		if !strings.Contains(config, r[0]) {
			t.Fatalf("the configuration has no %q", r[0])
		}
		config = strings.ReplaceAll(config, r[0], r[1])
	}
	central, dir := nettest.New(t), t.TempDir()
	empty := filepath.Join(dir, "empty.yml")
	writeFile(t, empty, "global: {}\n")
	spawnIn(t, central, nil, promProgram(t, "prometheus"), "--config.file="+empty,
		"--storage.tsdb.path="+filepath.Join(dir, "tsdb"),
		"--web.enable-remote-write-receiver", "--web.listen-address=0.0.0.0:9090")
	for i, name := range []string{"node1", "node2"} {
		ns := nettest.New(t)
		nettest.Link(central, ns, name, single("10.0.0.5"), single(fmt.Sprintf("10.0.0.1%d", i+1)))
		central.Run("ip", "route", "add", fmt.Sprintf("10.0.0.1%d", i+1), "dev", name)
		ns.DefaultRoute(name)
		file := filepath.Join(dir, name+".yml")
		writeFile(t, file, config)
		spawnIn(t, ns, []string{"NODE_NAME=" + name}, promProgram(t, "prometheus"),
			"--enable-feature=agent,expand-external-labels",
			"--config.file="+file, "--storage.agent.path="+filepath.Join(dir, name),
			"--web.listen-address=127.0.0.1:9796")
	}
	awaitInstances(t, `up{job="sikkerguard"} == 0`, []string{"node1", "node2"}, func(expr string) []string {
		return askPrometheus(t, central, expr)
	})
}
