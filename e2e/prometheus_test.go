//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	deployed    = "../deploy/prometheus"
	promAddress = "127.0.0.1:9090"
)

// promProgram returns the path of prometheus or promtool: installed, or unpacked by install-deps.
func promProgram(tb testing.TB, name string) string {
	tb.Helper()
	unpacked, err := filepath.Abs(filepath.Join("../bin/prometheus/usr/bin", name))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(unpacked); err == nil {
		return unpacked
	}
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is missing: e2e/install-deps prometheus promtool gets it", name)
	}
	return path
}

// TestPromtool checks the deployed rules, and every example on the page of metrics, with the tool
// of Prometheus.
func TestPromtool(t *testing.T) {
	t.Parallel()
	page := readFile(t, "../docs/metrics.md")
	examples := regexp.MustCompile("(?m)^\\| `sikkerguard_.* \\| `(.+)` \\|$").FindAllStringSubmatch(page, -1)
	if len(examples) < 30 {
		t.Fatalf("only %d examples were found", len(examples))
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(readFile(t, "../deploy/grafana/dashboards/sikkerguard.json")), &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets { // Grafana inserts a duration and a regular expression there
			examples = append(examples, []string{
				"", strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr),
			})
		}
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: examples\n  rules:\n")
	for i, e := range examples {
		fmt.Fprintf(&rules, "  - record: example:%d\n    expr: %q\n", i, e[1])
	}
	file := filepath.Join(t.TempDir(), "examples.yml")
	writeFile(t, file, rules.String())
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"test", "rules", "alerts_test.yml"},
		{"check", "rules", file},
		{"check", "config", "fleet.yml"},
		{"test", "rules", "fleet_alerts_test.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promProgram(t, "promtool"), args...)
		cmd.Dir = deployed
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// prometheus: starts a Prometheus on the server. Its configuration and rules are those of deploy
// with short intervals, and one more job that scrapes /status.
func cmdPrometheus(ts *testscript.TestScript, _ bool, _ []string) {
	w := of(ts)
	fast := func(name string, rewrites ...string) {
		raw, err := os.ReadFile(filepath.Join(deployed, name))
		ts.Check(err)
		text := string(raw)
		for i := 0; i < len(rewrites); i += 2 {
			re := regexp.MustCompile(rewrites[i])
			if !re.MatchString(text) {
				ts.Fatalf("%s has no %s", name, rewrites[i])
			}
			text = re.ReplaceAllString(text, rewrites[i+1])
		}
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
	fast("alerts.yml", `for: \d+[mh]`, "for: 0s")
	fast("prometheus.yml", `interval: 30s`, "interval: 1s",
		`(?s)(\n  - job_name: )sikkerguard(\n.*?targets: \[[^]]*\])`,
		"${0}${1}sikkerguard-status\n    metrics_path: /status${2}")
	p := w.spawn(ts, nil, "prometheus.log", promProgram(w.tb, "prometheus"),
		"--config.file="+ts.MkAbs("prometheus.yml"),
		"--storage.tsdb.path="+ts.MkAbs("tsdb"), "--web.listen-address="+promAddress)
	waitFor(ts, "Prometheus", func() bool {
		select {
		case <-p.doneC:
			raw, err := os.ReadFile(p.log.Name())
			ts.Fatalf("Prometheus ends: %s %v", raw, err)
		default:
		}
		res, err := w.client.Get("http://" + promAddress + "/-/ready")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// query EXPR VALUE: waits until Prometheus answers with this one value.
func cmdQuery(ts *testscript.TestScript, _ bool, args []string) {
	last := ""
	defer func() { ts.Logf("%s is %s", args[0], last) }()
	waitFor(ts, strings.Join(args, " to be "), func() bool {
		_, last = of(ts).ask(ts, http.MethodGet,
			"http://"+promAddress+"/api/v1/query?query="+url.QueryEscape(args[0]), "")
		var answer struct {
			Error string
			Data  struct{ Result []struct{ Value [2]any } }
		}
		ts.Check(json.Unmarshal([]byte(last), &answer))
		if answer.Error != "" {
			ts.Fatalf("query %s: %s", args[0], answer.Error)
		}
		return len(answer.Data.Result) == 1 && fmt.Sprint(answer.Data.Result[0].Value[1]) == args[1]
	})
}

// [!] alert NAME: waits until the alert fires, or no longer fires.
func cmdAlert(ts *testscript.TestScript, neg bool, args []string) {
	waitFor(ts, fmt.Sprintf("alert %s to fire: %v", args[0], !neg), func() bool {
		_, raw := of(ts).ask(ts, http.MethodGet, "http://"+promAddress+"/api/v1/alerts", "")
		var answer struct {
			Data struct {
				Alerts []struct {
					State  string
					Labels map[string]string
				}
			}
		}
		ts.Check(json.Unmarshal([]byte(raw), &answer))
		fires := false
		for _, a := range answer.Data.Alerts {
			fires = fires || a.Labels["alertname"] == args[0] && a.State == "firing"
		}
		return fires != neg
	})
}

// counter NAME: puts the packets of a counter of the table, from nft, into the variable of that
// name.
func cmdCounter(ts *testscript.TestScript, _ bool, args []string) {
	cmdNft(ts, false, []string{"list", "counter", "inet", "sikkerguard", args[0]})
	found := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(ts.ReadFile("nft.txt"))
	if found == nil {
		ts.Fatalf("no counter %s in\n%s", args[0], ts.ReadFile("nft.txt"))
	}
	ts.Setenv(args[0], found[1])
}

// promtool FILE: checks the metrics in FILE with promtool.
func cmdPromtool(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(promProgram(of(ts).tb, "promtool"), "check", "metrics")
	cmd.Stdin = strings.NewReader(ts.ReadFile(args[0]))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		ts.Fatalf("promtool check metrics: %v\n%s", err, out.String())
	}
}
