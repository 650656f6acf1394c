//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// sim [flags]: starts the API simulator, which serves list.txt.
func cmdSim(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	addr := ts.MkAbs("sim.addr")
	w.start(ts, nil, "sim.log", "sikkerapi-sim", append([]string{
		"-listen", "127.0.0.1:0", "-list", ts.MkAbs("list.txt"), "-key", testKey, "-addr-file", addr,
	}, args...)...)
	waitFor(ts, "the simulator", func() bool {
		raw, err := os.ReadFile(addr)
		w.api = strings.TrimSpace(string(raw))
		return err == nil && w.api != ""
	})
}

// fault JSON, fault clear: sets or clears a fault of the simulator.
func cmdFault(ts *testscript.TestScript, _ bool, args []string) {
	method, body := http.MethodPost, strings.Join(args, " ")
	if body == "clear" {
		method, body = http.MethodDelete, ""
	}
	status, answer := of(ts).ask(ts, method, "http://"+of(ts).api+"/_sim/fault", body)
	if status/100 != 2 {
		ts.Fatalf("set fault: %d %s", status, answer)
	}
}

// requests PATH N: waits until the simulator got at least N requests for PATH.
func cmdRequests(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	waitFor(ts, strings.Join(args, " "), func() bool {
		_, answer := of(ts).ask(ts, http.MethodGet, "http://"+of(ts).api+"/_sim/requests", "")
		var reqs []struct{ Path string }
		ts.Check(json.Unmarshal([]byte(answer), &reqs))
		got := 0
		for _, r := range reqs {
			if r.Path == args[0] {
				got++
			}
		}
		return got >= n
	})
}

func (w *world) ask(ts *testscript.TestScript, method, url, body string) (int, string) {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	ts.Check(err)
	res, err := w.client.Do(req)
	ts.Check(err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	ts.Check(err)
	return res.StatusCode, string(raw)
}

// environ returns the environment of the agent: the key and the address of the simulator, unless
// vars override them. "-NAME" removes a variable.
func (w *world) environ(ts *testscript.TestScript, vars []string) []string {
	env := map[string]string{
		"SIKKER_API_KEY": testKey, "SIKKER_API_URL": "http://" + w.api, "SIKKER_STATE_DIR": ts.MkAbs("state"),
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
		if strings.HasPrefix(name, "-") {
			delete(env, name)
			delete(env, name[1:])
		}
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// agent [VAR=value …]: starts the agent; its output goes to agent1.log, that of the next one to
// agent2.log.
func cmdAgent(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	log := fmt.Sprintf("agent%d.log", len(w.agents)+1)
	w.agents = append(w.agents, w.start(ts, w.environ(ts, args), log, "sikkerguard"))
}

// fails CODE [-nocap] [VAR=value …]: runs the agent, which must exit by itself with CODE. Its
// stderr goes to stderr.txt, its stdout to stdout.txt.
func cmdFails(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	cmd := exec.Command(filepath.Join(w.bin, "sikkerguard"))
	want, args := args[0], args[1:]
	if len(args) > 0 && args[0] == "-nocap" {
		args = args[1:]
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	cmd.Env = w.environ(ts, args)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ts.Check(w.server.Start(cmd))
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	timer.Stop()
	ts.Check(os.WriteFile(ts.MkAbs("stdout.txt"), stdout.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("stderr.txt"), stderr.Bytes(), 0o600))
	if code := strconv.Itoa(cmd.ProcessState.ExitCode()); code != want {
		ts.Fatalf("exit code %s, want %s\n%s%s", code, want, stdout.String(), stderr.String())
	}
}

// agentLog returns the newest agent and its log.
func (w *world) agentLog(ts *testscript.TestScript) (*process, string) {
	p := w.agents[len(w.agents)-1]
	raw, err := os.ReadFile(p.log.Name())
	ts.Check(err)
	return p, string(raw)
}

// await REGEXP: waits until the newest agent logs a matching line, after the line that the previous
// await found.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	re := regexp.MustCompile("(?m)" + strings.Join(args, " "))
	waitFor(ts, strings.Join(args, " "), func() bool {
		p, log := of(ts).agentLog(ts)
		at := re.FindStringIndex(log[p.awaited:])
		if at != nil {
			p.awaited += at[1]
		}
		return at != nil
	})
}

// [!] logged REGEXP: the newest agent has logged a matching line.
func cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	_, log := of(ts).agentLog(ts)
	if regexp.MustCompile("(?m)"+strings.Join(args, " ")).MatchString(log) == neg {
		ts.Fatalf("logged %q: want %v in\n%s", strings.Join(args, " "), !neg, log)
	}
}

// signal NAME: sends a signal to the newest agent.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]os.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
		"PIPE": syscall.SIGPIPE, "TTOU": syscall.SIGTTOU,
	}[args[0]]
	p, _ := of(ts).agentLog(ts)
	ts.Check(p.cmd.Process.Signal(sig))
}

// exits CODE: the newest agent exits with this code, -1 for a signal.
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	p, _ := of(ts).agentLog(ts)
	select {
	case <-p.doneC:
	case <-time.After(patience):
		ts.Fatalf("the agent does not exit")
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[0] {
		_, log := of(ts).agentLog(ts)
		ts.Fatalf("exit code %s, want %s\n%s", got, args[0], log)
	}
}
