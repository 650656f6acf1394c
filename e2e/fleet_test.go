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
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/e2e/apisim"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

const fleetProxy = "10.0.0.2:9080"

// fleet is Debian's nginx with deploy/fleet/nginx.conf before the simulator, which speaks TLS.
type fleet struct {
	ns  *nettest.NS
	api *apisim.Sim
	dir string
}

func newFleet(t *testing.T, valid string) fleet {
	t.Helper()
	f := fleet{ns: nettest.New(t), dir: t.TempDir()}
	f.ns.Run("ip", "address", "add", "10.0.0.2/32", "dev", "lo")
	list := filepath.Join(f.dir, "list")
	writeFile(t, list, "203.0.113.9\n198.51.100.0/24\n2001:db8:bad::1\n")
	var err error
	if f.api, err = apisim.New(apisim.Options{List: list, Key: testKey}); err != nil {
		t.Fatal(err)
	}
	var srv *httptest.Server
	f.ns.Do(func() { srv = httptest.NewTLSServer(f.api) })
	t.Cleanup(srv.Close)
	writeFile(t, filepath.Join(f.dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	writeFile(t, filepath.Join(f.dir, "keys"), `"~^Bearer `+testKey+`$" fleet;`+"\n"+`"~^Bearer sk_test_other$" other;`+"\n")
	f.start(t, f.configuration(t, valid, srv.Listener.Addr().String()))
	return f
}

// configuration is the file as it is shipped, but for where the API, its certificate and the machine's files are.
func (f fleet) configuration(t *testing.T, valid, api string) string {
	t.Helper()
	raw, err := os.ReadFile("../deploy/fleet/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	conf := string(raw)
	for _, r := range [][2]string{
		{"server api.sikkerapi.com:443;", "server " + api + ";"},
		{"proxy_ssl_name api.sikkerapi.com;", "proxy_ssl_name example.com;"}, // whom the simulator's certificate is for
		{"/etc/ssl/certs/ca-certificates.crt", f.dir + "/ca.pem"},
		{"/etc/nginx/sikkerguard.keys", f.dir + "/keys"},
		{"/var/cache/nginx/sikkerguard", f.dir + "/cache"},
		{"proxy_cache_valid 200 2h;", "proxy_cache_valid 200 " + valid + ";"},
	} {
		if strings.Count(conf, r[0]) < 1 {
			t.Fatalf("nginx.conf has no %q", r[0])
		}
		conf = strings.ReplaceAll(conf, r[0], r[1])
	}
	return conf
}

func (f fleet) start(t *testing.T, conf string) {
	t.Helper()
	writeFile(t, filepath.Join(f.dir, "sikkerguard.conf"), conf)
	writeFile(t, filepath.Join(f.dir, "nginx.conf"), fmt.Sprintf(`user root; daemon off; pid %[1]s/pid; worker_processes 2;
events {} http { access_log %[1]s/access.log combined; include %[1]s/sikkerguard.conf; }`, f.dir))
	cmd := exec.Command("nginx", "-p", f.dir, "-c", filepath.Join(f.dir, "nginx.conf"), "-e", filepath.Join(f.dir, "error.log"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := f.ns.Start(cmd); err != nil {
		t.Fatalf("start nginx: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // ends the workers too
		_ = cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(f.dir, "error.log"))
			t.Logf("nginx: %s%s", out.String(), log)
		}
	})
	f.await(t, "nginx", func() bool {
		_, err := f.dial(t.Context(), "tcp", fleetProxy)
		return err == nil
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
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// answer is what the proxy says.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request to the proxy.
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
		t.Errorf("%s %s: %v", method, path, err)
		return answer{}
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return answer{res.StatusCode, res.Header, string(raw)}
}

// asked is how often the API was asked for a path.
func (f fleet) asked(path string) int {
	n := 0
	for _, r := range f.api.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
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

// TestFleet has a fleet pull at once through the proxy: the API is asked once. Reports go through, each of them.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "2h")
	slow := apisim.Fault{Path: blacklistPath, Delay: apisim.Duration(500 * time.Millisecond), Times: 1} // so that they overlap
	if err := f.api.SetFault(slow); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := f.ask(t, http.MethodGet, pullPath, testKey, ""); a.status != 200 || !strings.Contains(a.body, "203.0.113.9\n") {
				t.Errorf("pull: %d %s", a.status, a.body)
			} else if a.header.Get("X-Daily-Remaining") != "" {
				t.Error("a cached quota is shown")
			}
		})
	}
	wg.Wait()
	f.agents(t)
	if n := f.asked(blacklistPath); n != 1 {
		t.Errorf("the API was asked %d times for 20 pulls and those of 3 agents, want once", n)
	}

	row := `{"reports": [{"ip": "203.0.113.9", "category": "port_scan", "protocol": "ssh"}]}`
	for range 2 {
		if a := f.ask(t, http.MethodPost, "/v1/key/bulk-report", testKey, row); a.status != 200 || !strings.Contains(a.body, `"accepted":1`) {
			t.Errorf("report: %d %s", a.status, a.body)
		}
	}
	if n := len(f.api.Reports()); n != 2 {
		t.Errorf("%d reports arrived, want 2", n)
	}
	f.checkKeys(t)
}

// agents runs three agents, each on a host of its own, until they enforce the list.
func (f fleet) agents(t *testing.T) {
	t.Helper()
	bin := filepath.Join(f.dir, "sikkerguard")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/sikkerguard").CombinedOutput(); err != nil {
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
		cmd.Env = []string{"SIKKER_API_KEY=" + testKey, "SIKKER_API_URL=http://" + fleetProxy, "SIKKER_STATE_DIR=" + filepath.Join(f.dir, dev)}
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

// checkKeys has no key see the list of another, or be found in the proxy's files.
func (f fleet) checkKeys(t *testing.T) {
	t.Helper()
	before := f.asked(blacklistPath)
	for _, key := range []string{"sk_test_unknown", strings.ToUpper(testKey), testKey + "x", ""} {
		if a := f.ask(t, http.MethodGet, pullPath, key, ""); a.status != 401 || strings.Contains(a.body, "203.0.113.9") {
			t.Errorf("key %q: %d %s", key, a.status, a.body)
		}
	}
	if n := f.asked(blacklistPath); n != before {
		t.Errorf("the API was asked %d times for unknown keys", n-before)
	}
	// The proxy knows this one, and the API does not.
	if a := f.ask(t, http.MethodGet, pullPath, "sk_test_other", ""); a.status != 401 || strings.Contains(a.body, "203.0.113.9") {
		t.Errorf("another account's key: %d %s", a.status, a.body)
	}
	err := filepath.WalkDir(f.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "keys" || strings.Contains(path, "/host") || d.Name() == "sikkerguard" {
			return err
		}
		if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, []byte(testKey)) {
			t.Errorf("%s holds the key", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFleetStale has the last list be served while the API is down or its quota spent, and a fresh one afterwards.
func TestFleetStale(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "1s")
	f.ask(t, http.MethodGet, pullPath, testKey, "")
	cache := func(want string) func() bool {
		return func() bool {
			a := f.ask(t, http.MethodGet, pullPath, testKey, "")
			if a.status != 200 || !strings.Contains(a.body, "203.0.113.9\n") {
				t.Fatalf("while waiting for %s: %d %s", want, a.status, a.body)
			}
			return a.header.Get("X-Cache-Status") == want
		}
	}
	for _, status := range []int{503, 429} {
		if err := f.api.SetFault(apisim.Fault{Path: blacklistPath, Status: status}); err != nil {
			t.Fatal(err)
		}
		f.await(t, "a stale list", cache("STALE"))
	}
	f.api.ClearFaults()
	f.await(t, "a fresh list", cache("EXPIRED"))
	if err := f.api.SetFault(apisim.Fault{Path: blacklistPath, Status: 401}); err != nil {
		t.Fatal(err)
	}
	f.await(t, "a refused key", func() bool {
		a := f.ask(t, http.MethodGet, pullPath, testKey, "")
		return a.status == 401
	})
}
