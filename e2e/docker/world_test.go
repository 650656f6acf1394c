//go:build e2e_docker

package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const (
	testKey = "sk_test_e2e_docker"
	apiAddr = "127.0.0.1:9080"
	// hostPort is open on the host, publishedPort on another container.
	hostPort, publishedPort = 2222, 8081
	// knockPatience is the longest wait of a knock for an answer. Between namespaces an answer
	// takes less than a millisecond.
	knockPatience = 2 * time.Second
)

// world is a host with a Docker engine, and a peer with good and bad addresses.
type world struct {
	*engine
	host, peer *nettest.NS
	dir        string    // directory of the project: compose.yaml, .env
	list       string    // file with the list of the simulator
	sim        *exec.Cmd // the simulator, while it runs
	service    *exec.Cmd // of the host
	http       *http.Client
	failed     bool // a part of the test has failed
}

// sources returns the addresses of the peer.
func sources() (listed, unlisted []netip.Addr) {
	return []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:bad::9")},
		[]netip.Addr{netip.MustParseAddr("198.51.100.8"), netip.MustParseAddr("2001:db8:900d::8")}
}

// hostAddr returns the address of the host in a family.
func hostAddr(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.MustParseAddr("2001:db8::1")
	}
	return netip.MustParseAddr("192.0.2.1")
}

func newWorld(t *testing.T, root string) *world {
	t.Helper()
	w := &world{host: nettest.New(t), peer: nettest.New(t), dir: t.TempDir()}
	at := []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}
	listed, unlisted := sources()
	for _, a := range append(listed, unlisted...) {
		at = append(at, netip.PrefixFrom(a, a.BitLen()))
	}
	nettest.Link(w.host, w.peer, "eth0",
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}, at)
	w.host.DefaultRoute("eth0")
	w.http = &http.Client{
		Timeout: knockPatience,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(
			ctx context.Context, network, addr string,
		) (c net.Conn, err error) {
			w.host.Do(func() { c, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
			return c, err
		}},
	}
	w.list = filepath.Join(t.TempDir(), "list.txt")
	w.engine = startEngine(t, w.host, root)
	t.Cleanup(func() {
		w.apiDown(t)
		if w.service != nil {
			_ = w.service.Process.Kill()
			_ = w.service.Wait()
		}
	})
	return w
}

// project writes the files of an operator: compose.yaml of the repository, and an .env.
func (w *world) project(t *testing.T) {
	t.Helper()
	w.copies(t, "compose.yaml")
	env := "SIKKER_API_KEY=" + testKey + "\nSIKKER_API_URL=http://" + apiAddr + "\n"
	if err := os.WriteFile(filepath.Join(w.dir, ".env"), []byte(env), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copies copies a file of the repository into the project, byte for byte.
func (w *world) copies(t *testing.T, path string) {
	t.Helper()
	to := filepath.Join(w.dir, path)
	raw, err := os.ReadFile("../../" + path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// compose runs Docker Compose on the project.
func (w *world) compose(t *testing.T, args ...string) {
	t.Helper()
	all := slices.Concat(w.within(w.client...), []string{"-f", filepath.Join(w.dir, "compose.yaml")}, args)
	if _, err := w.command(interrupted, patience, all[0], all[1:]...); err != nil {
		t.Fatal(err)
	}
}

// serves writes the list of the simulator.
func (w *world) serves(t *testing.T, list string) {
	t.Helper()
	if err := os.WriteFile(w.list, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
}

// apiUp starts the simulator on the host, apiDown ends it.
func (w *world) apiUp(t *testing.T) {
	t.Helper()
	w.sim = exec.Command("../../bin/sikkerapi-sim", "-listen", apiAddr, "-list", w.list, "-key", testKey, "-limit",
		"600000")
	if err := w.host.Start(w.sim); err != nil {
		t.Fatalf("start the simulator: %v", err)
	}
	await(t, "the simulator", func() bool {
		var requests []struct{}
		return w.get("http://"+apiAddr+"/_sim/requests", &requests) == nil
	})
}

func (w *world) apiDown(t *testing.T) {
	t.Helper()
	if w.sim == nil {
		return
	}
	_ = w.sim.Process.Signal(syscall.SIGTERM)
	if err := w.sim.Wait(); err != nil && interrupted.Err() == nil {
		t.Errorf("simulator: %v", err)
	}
	w.sim = nil
}

// services opens a port on the host and starts a container that publishes one.
func (w *world) services(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{serveEnv + "=:" + strconv.Itoa(hostPort)}
	if err := w.host.Start(cmd); err != nil {
		t.Fatalf("start the host's service: %v", err)
	}
	w.service = cmd
	port := strconv.Itoa(publishedPort)
	w.docker(t, "run", "-d", "--name", "published", "-p", port+":"+port, "-v", self+":/serve:ro", "-e",
		serveEnv+"=:"+port,
		"--entrypoint", "/serve", baseImage, "serve")
}

// knock connects from an address of the peer to a port of the host, and returns the address that
// the service saw.
func (w *world) knock(src netip.Addr, port uint16) (seen string, err error) {
	d := net.Dialer{Timeout: knockPatience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))}
	var c net.Conn
	w.peer.Do(func() { c, err = d.DialContext(interrupted, "tcp", netip.AddrPortFrom(hostAddr(src), port).String()) })
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(knockPatience)); err != nil {
		return "", err
	}
	seen, err = bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(seen), err
}

// get sends a request on the host and decodes a good answer into v.
func (w *world) get(url string, v any) error {
	req, err := http.NewRequestWithContext(interrupted, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(v)
}

var counters = regexp.MustCompile(`\[\d+:\d+\]`)

// ruleset returns the whole ruleset of the host from both programs, without the counters, which any
// packet changes.
func (w *world) ruleset() string {
	text := w.host.Run("nft", "-s", "list", "ruleset")
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		text += w.host.Run(save)
	}
	text = regexp.MustCompile(`(?m)^# (Generated|Completed) .*$`).ReplaceAllString(text, "")
	return counters.ReplaceAllString(text, "[]")
}
