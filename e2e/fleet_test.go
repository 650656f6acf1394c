//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const (
	fleetProxy    = "10.0.0.2:9080"
	fleetResolver = "10.0.0.1:53"
	fleetLists    = "200 2h;"
	fleetErrors   = "504 10m;"
	apiName       = "api.sikkerapi.com"
)

// fleet is Debian's nginx with deploy/fleet/nginx.conf in front of the simulator, which serves TLS
// under the name of the API.
type fleet struct {
	ns  *nettest.NS
	api *apisim.Sim
	dir string
	net *fleetNet
}

// newFleet starts a proxy. lists and errors are how long it stores either, in the form of
// nginx.conf.
func newFleet(t *testing.T, lists, errors string) fleet {
	t.Helper()
	f := fleet{
		ns: nettest.New(t), dir: t.TempDir(),
		net: &fleetNet{addr: netip.MustParseAddr("192.0.2.80"), asked: map[netip.Addr]bool{}},
	}
	for _, addr := range []string{"10.0.0.2", "10.0.0.1", "192.0.2.80", "192.0.2.81"} {
		f.ns.Run("ip", "address", "add", addr+"/32", "dev", "lo")
	}
	list := filepath.Join(f.dir, "list")
	writeFile(t, list, "203.0.113.9\n198.51.100.0/24\n2001:db8:bad::1\n")
	var err error
	if f.api, err = apisim.New(apisim.Options{List: list, Key: testKey}); err != nil {
		t.Fatal(err)
	}
	f.serveNames(t)
	cert := certificate(t, apiName)
	writeFile(t, filepath.Join(f.dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Bytes: cert.Certificate[0],
	})))
	f.serveAPI(t, "192.0.2.80:443", cert)
	f.serveAPI(t, "192.0.2.81:443", cert)
	conf := readFile(t, "../deploy/fleet/nginx.conf")
	for _, r := range [][2]string{{fleetLists, lists}, {fleetErrors, errors}} {
		if strings.Count(conf, r[0]) != 1 {
			t.Fatalf("nginx.conf has no %q", r[0])
		}
		conf = strings.ReplaceAll(conf, r[0], r[1])
	}
	if err := os.MkdirAll(filepath.Join(f.dir, "deploy/fleet"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(f.dir, "deploy/fleet/nginx.conf"), conf)
	return f
}

// debian prepares a machine on which nginx was just installed, as far as the commands of the page
// can see: the configuration of the package, empty directories for its state, and the certificate
// that signs that of the API.
const debian = `
mkdir -p root/etc
cp -a /etc/nginx root/etc/nginx
for dir in /etc/nginx /etc/ssl/certs /etc/tmpfiles.d /var/lib/nginx /var/log/nginx /run; do
	mkdir -p "root$dir"
	mount --bind "root$dir" "$dir"
done
cp ca.pem /etc/ssl/certs/ca-certificates.crt
apt() { nginx -v; }
systemctl() {
	echo '"~^Bearer sk_test_other$" other;' >>/etc/nginx/sikkerguard.keys
	exec nginx -g 'daemon off;'
}
`

// start runs the commands of docs/fleet.md, which start nginx.
func (f fleet) start(t *testing.T) {
	t.Helper()
	_, after, _ := strings.Cut(readFile(t, "../docs/fleet.md"), "```sh\n")
	commands, _, ok := strings.Cut(after, "```")
	if !ok || !strings.Contains(commands, "systemctl reload nginx\n") {
		t.Fatal("docs/fleet.md does not begin with the commands that set up nginx")
	}
	commands = strings.ReplaceAll(commands, "sk_your_key", testKey)
	cmd := exec.Command("unshare", "--mount", "bash", "-euc", debian+commands)
	cmd.Dir = f.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := f.ns.Start(cmd); err != nil {
		t.Fatalf("start nginx: %v", err)
	}
	doneC := make(chan struct{})
	go func() {
		defer close(doneC)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // also ends the workers
		<-doneC
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(f.dir, "root/var/log/nginx/error.log"))
			t.Logf("nginx: %s%s", out.String(), log)
		}
	})
	f.await(t, "nginx", func() bool {
		select {
		case <-doneC:
			t.Fatal("nginx does not start")
		default:
		}
		// Written when it listens. A successful connection is no proof: nginx -t also listens, for
		// a moment.
		pid, _ := os.ReadFile(filepath.Join(f.dir, "root/run/nginx.pid"))
		return strings.TrimSpace(string(pid)) == strconv.Itoa(cmd.Process.Pid)
	})
}

func (f fleet) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	f.ns.Do(func() { c, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
	return c, err
}

func (f fleet) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// answer is an answer of the proxy.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request to the proxy. If the answer is missing or incomplete, its status is 0.
func (f fleet) ask(t *testing.T, method, path, key, body string) answer {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: f.dial}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+fleetProxy+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Logf("%s %s: %v", method, path, err)
		return answer{}
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Logf("%s %s: %v", method, path, err)
		return answer{}
	}
	return answer{res.StatusCode, res.Header, string(raw)}
}

// asked returns the number of requests to the API for a path.
func (f fleet) asked(path string) int {
	n := 0
	for _, r := range f.api.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	blacklistPath = "/v1/key/blacklist"
	pullPath      = blacklistPath + "?plaintext=true&scoreMinimum=50"
)

// TestFleet has a fleet pull at once through the proxy. The API gets one request for the list, and
// every report.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetLists, fleetErrors)
	f.start(t)
	// so that they overlap
	slow := apisim.Fault{Path: blacklistPath, Delay: apisim.Duration(500 * time.Millisecond), Times: 1}
	if err := f.api.SetFault(slow); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := f.ask(t, http.MethodGet, pullPath, testKey, ""); a.status != 200 ||
				!strings.Contains(a.body, "203.0.113.9\n") {
				t.Errorf("pull: %d %s", a.status, a.body)
			} else if a.header.Get("X-Daily-Remaining") != "" {
				t.Error("a cached quota is shown")
			}
		})
	}
	wg.Wait()
	f.agents(t)
	if n := f.asked(blacklistPath); n != 1 {
		t.Errorf("the API got %d requests for 20 pulls and those of 3 agents, want one", n)
	}

	row := `{"reports": [{"ip": "203.0.113.9", "category": "port_scan", "protocol": "ssh"}]}`
	for range 2 {
		if a := f.ask(t, http.MethodPost, "/v1/key/bulk-report", testKey, row); a.status != 200 ||
			!strings.Contains(a.body, `"accepted":1`) {
			t.Errorf("report: %d %s", a.status, a.body)
		}
	}
	if n := len(f.api.Reports()); n != 2 {
		t.Errorf("%d reports arrived, want 2", n)
	}
	if a := f.ask(t, http.MethodGet, "/v1/key/status", testKey, ""); a.status != 200 {
		t.Errorf("status: %d %s", a.status, a.body)
	}
	f.checkKeys(t)
	f.net.change(func(n *fleetNet) {
		for _, name := range n.names {
			if name != apiName+" "+apiName {
				t.Errorf("a request to the API has the name %q", name)
			}
		}
	})
}

// agents runs three agents, each on a separate host, until they enforce the list.
func (f fleet) agents(t *testing.T) {
	t.Helper()
	bin := filepath.Join(f.dir, "sikkerguard")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/sikkerguard").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	logs := make([]string, 3)
	for i := range logs {
		ns, dev := nettest.New(t), fmt.Sprintf("host%d", i)
		prefix := func(host int) []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.1.%d.%d/24", i, host))}
		}
		nettest.Link(f.ns, ns, dev, prefix(1), prefix(2))
		ns.Run("ip", "route", "add", "default", "via", fmt.Sprintf("10.1.%d.1", i))
		logs[i] = filepath.Join(f.dir, dev+".log")
		log, err := os.Create(logs[i])
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin)
		cmd.Env = []string{
			"SIKKER_API_KEY=" + testKey, "SIKKER_API_URL=http://" + fleetProxy,
			"SIKKER_STATE_DIR=" + filepath.Join(f.dir, dev),
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := ns.Start(cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
		})
	}
	for _, log := range logs {
		f.await(t, "an agent", func() bool {
			raw, _ := os.ReadFile(log)
			return bytes.Contains(raw, []byte("INFO Blocking 3 IPs\n"))
		})
	}
}

// checkKeys checks that no key gets the list of another, and that no file of the proxy contains a
// key.
func (f fleet) checkKeys(t *testing.T) {
	t.Helper()
	before := f.asked(blacklistPath)
	for _, key := range []string{"sk_test_unknown", strings.ToUpper(testKey), testKey + "x", ""} {
		if a := f.ask(t, http.MethodGet, pullPath, key, ""); a.status != 401 ||
			strings.Contains(a.body, "203.0.113.9") {
			t.Errorf("key %q: %d %s", key, a.status, a.body)
		}
	}
	if n := f.asked(blacklistPath); n != before {
		t.Errorf("the API got %d requests for unknown keys", n-before)
	}
	// The proxy accepts this key, and the API does not.
	if a := f.ask(t, http.MethodGet, pullPath, "sk_test_other", ""); a.status != 401 ||
		strings.Contains(a.body, "203.0.113.9") {
		t.Errorf("another account's key: %d %s", a.status, a.body)
	}
	kept := 0
	err := filepath.WalkDir(filepath.Join(f.dir, "root"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "sikkerguard.keys" {
			return err
		}
		if strings.Contains(path, "/var/lib/nginx/sikkerguard/") {
			kept++
		}
		if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, []byte(testKey)) {
			t.Errorf("%s contains the key", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if kept < 2 {
		t.Errorf("the cache has %d files, want the list and the other account's error", kept)
	}
}
