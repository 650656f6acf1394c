//go:build e2e

// Package e2e runs the built agent against the API simulator, on separate hosts, with the scripts
// in testdata.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
)

const (
	testKey  = "sk_test_e2e_0123456789"
	recvPort = 9
)

// patience is the longest wait of a script. -short makes it longer, for an emulated processor.
var patience = 30 * time.Second

// TestScripts runs every script of testdata, each with a separate server and attacker.
func TestScripts(t *testing.T) {
	t.Parallel()
	nettest.New(t) // skips or fails before anything is built
	bin := programs(t)
	if testing.Short() {
		patience = 2 * time.Minute
	}
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: func(env *testscript.Env) error { return setUp(env, bin) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sim": cmdSim, "fault": cmdFault, "agent": cmdAgent, "fails": cmdFails, "await": cmdAwait,
			"logged": cmdLogged,
			"signal": cmdSignal, "exits": cmdExits, "passes": cmdPasses, "drops": cmdDrops, "knock": cmdKnock,
			"nft": cmdNft, "get": cmdGet, "flood": cmdFlood, "requests": cmdRequests,
			"nflog": cmdNflog, "pull": cmdPull, "run": cmdRun, "ip": cmdIP, "reports": cmdReports,
			"blast": cmdBlast, "swarm": cmdSwarm, "prometheus": cmdPrometheus, "query": cmdQuery, "alert": cmdAlert,
			"counter":  cmdCounter,
			"promtool": cmdPromtool, "crowd": cmdCrowd, "answered": cmdAnswered,
			"stream": cmdStream, "told": cmdTold, "lock": cmdLock, "port": cmdPort, "piped": cmdPiped,
			"reads": cmdReads, "status": cmdStatus, "unguarded": cmdUnguarded,
			"answer": cmdAnswer, "documented": cmdDocumented, "datagram": cmdDatagram, "ping": cmdPing,
			"socket": cmdSocket,
			"on":     cmdOn, "firewall": cmdFirewall, "disk": cmdDisk, "freeze": cmdFreeze, "written": cmdWritten,
		},
		Condition:           func(cond string) (bool, error) { return kernelHas(t, cond) },
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// programs returns a directory with the programs that the scripts run. They are built with the race
// detector, unless SIKKERGUARD_E2E_BIN names a directory that has them, for machines without a
// compiler.
func programs(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("SIKKERGUARD_E2E_BIN"); bin != "" {
		return bin
	}
	bin := t.TempDir()
	for _, dir := range []string{bin, filepath.Dir(bin)} { // so that an unprivileged user can run the programs in it
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-race", "-ldflags", "-X main.version=1.0.0",
		"-o", bin+"/", "../cmd/sikkerguard", "./apisim/sikkerapi-sim")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// kernelHas returns the value of a condition of the scripts. [owner] means that no other program
// can change our table, and that the kernel removes it if the agent is killed. [persist] means that
// the kernel can keep such a table. [counts] means that the kernel reports the number of elements
// of a set. A script that negates one expects the limitation.
func kernelHas(t *testing.T, cond string) (bool, error) {
	t.Helper()
	switch cond {
	case "owner":
		return nettest.TakesTable(t, nettest.TableOwner), nil
	case "persist":
		return nettest.TakesTable(t, nettest.TableOwner|nettest.TablePersist), nil
	case "counts":
		return nettest.CountsElements(t), nil
	default:
		return false, fmt.Errorf("unknown condition %s", cond)
	}
}

// world is the state of one script.
type world struct {
	tb               testing.TB
	bin              string
	server, attacker *nettest.NS
	sender           *nettest.Sender
	recv             *nettest.Receiver
	client           *http.Client
	api              string     // address of the simulator
	started          []*process // all of them
	agents           []*process // the agents among them
	settled          int
	held             map[string]io.Closer // by other programs
	reader           *os.File             // reads the output of the newest piped agent
	crowd            crowd
}

// process is one run of a program.
type process struct {
	cmd   *exec.Cmd
	log   *os.File
	seen  int // bytes of the log before the last line that await found
	doneC chan struct{}
}

type worldKey struct{}

func setUp(env *testscript.Env, bin string) error {
	tb, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("testscript does not provide a testing.TB")
	}
	w := &world{tb: tb, bin: bin, server: nettest.New(tb), attacker: nettest.New(tb), held: map[string]io.Closer{}}
	nettest.Link(w.server, w.attacker, "eth0",
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	w.server.DefaultRoute("eth0")
	w.sender = nettest.NewSender(tb, w.attacker, w.server, "eth0")
	w.recv = nettest.Listen(tb, w.server, recvPort)
	w.client = &http.Client{
		Timeout: patience,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(
			ctx context.Context, network, addr string,
		) (c net.Conn, err error) {
			w.server.Do(func() { c, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
			return c, err
		}},
	}
	env.Values[worldKey{}] = w
	env.Vars = append(env.Vars, "KEY="+testKey)
	env.Defer(w.stop)
	return nil
}

func of(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// stop kills the processes that a script left running.
func (w *world) stop() {
	for _, p := range w.started {
		_ = p.cmd.Process.Kill()
		<-p.doneC
	}
}

// start runs one of our programs on the server, with only env in its environment.
func (w *world) start(ts *testscript.TestScript, env []string, log, name string, args ...string) *process {
	return w.spawn(ts, env, log, filepath.Join(w.bin, name), args...)
}

// spawn runs any program on the server.
func (w *world) spawn(ts *testscript.TestScript, env []string, log, path string, args ...string) *process {
	f, err := os.Create(ts.MkAbs(log))
	ts.Check(err)
	p := &process{cmd: exec.Command(path, args...), log: f, doneC: make(chan struct{})}
	p.cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "GORACE=exitcode=66")
	p.cmd.Stdout, p.cmd.Stderr = f, f
	ts.Check(w.server.Start(p.cmd))
	go func() {
		defer close(p.doneC)
		_ = p.cmd.Wait()
	}()
	w.started = append(w.started, p)
	return p
}

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
		at := re.FindStringIndex(log[p.seen:])
		if at != nil {
			p.seen += at[1]
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

// nft ARGS: runs nft on the server; its output goes to nft.txt.
func cmdNft(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("nft", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(of(ts).server.Start(cmd))
	err := cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs("nft.txt"), out.Bytes(), 0o600))
	if (err != nil) != neg {
		ts.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
}

// on PROGRAM ARGS: runs a program on the server; its output goes to on.txt.
func cmdOn(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs("on.txt"), []byte(of(ts).server.Run(args[0], args[1:]...)), 0o600))
}

// documented PAGE TEXT FILE: writes the shell block that contains TEXT on a page of docs to FILE.
func cmdDocumented(ts *testscript.TestScript, _ bool, args []string) {
	page, err := os.ReadFile(filepath.Join("../docs", args[0]))
	ts.Check(err)
	for i, part := range strings.Split(string(page), "```") {
		if code, isShell := strings.CutPrefix(part, "sh\n"); i%2 == 1 && isShell && strings.Contains(code, args[1]) {
			ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(code), 0o600))
			return
		}
	}
	ts.Fatalf("docs/%s has no shell with %q in it", args[0], args[1])
}

// firewall FILE: writes the whole firewall of the server to FILE, without counters and the time.
func cmdFirewall(ts *testscript.TestScript, _ bool, args []string) {
	var text strings.Builder
	for _, c := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"ipset", "save"}, {"nft", "list", "ruleset"}} {
		text.WriteString(of(ts).server.Run(c[0], c[1:]...))
	}
	varying := regexp.MustCompile(`(?m)^# (Generated|Completed).*\n|\[\d+:\d+\]|packets \d+ bytes \d+`)
	plain := varying.ReplaceAllString(text.String(), "")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(plain), 0o600))
}

// run CODE ARG …: runs another command of the program, which must exit with CODE; its output goes
// to run.txt.
func cmdRun(ts *testscript.TestScript, _ bool, args []string) {
	of(ts).command(ts, args[0], "run.txt", args[1:]...)
}

// pull CODE [ARG …]: runs `sikkerguard pull`; its output goes to pull.txt.
func cmdPull(ts *testscript.TestScript, _ bool, args []string) {
	of(ts).command(ts, args[0], "pull.txt", append([]string{"pull"}, args[1:]...)...)
}

func (w *world) command(ts *testscript.TestScript, code, file string, args ...string) {
	cmd := exec.Command(filepath.Join(w.bin, "sikkerguard"), args...)
	cmd.Env = []string{"SIKKER_STATE_DIR=" + ts.MkAbs("state")}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(w.server.Start(cmd))
	_ = cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs(file), out.Bytes(), 0o600))
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != code {
		ts.Fatalf("exit code %s, want %s\n%s", got, code, out.String())
	}
}

// ip ARGS: runs ip on the server.
func cmdIP(ts *testscript.TestScript, _ bool, args []string) { of(ts).server.Run("ip", args...) }

// reports: writes the rows that the simulator accepted to reports.txt, one per line, sorted.
func cmdReports(ts *testscript.TestScript, _ bool, _ []string) {
	_, answer := of(ts).ask(ts, http.MethodGet, "http://"+of(ts).api+"/_sim/reports", "")
	var rows []struct{ IP, Category, Protocol, Comment string }
	ts.Check(json.Unmarshal([]byte(answer), &rows))
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = fmt.Sprintf("%s %s %q %s\n", r.IP, r.Category, r.Protocol, r.Comment)
	}
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs("reports.txt"), []byte(strings.Join(lines, "")), 0o600))
}

// nflog GROUP, ! nflog GROUP: another program takes the NFLOG group until the script ends, or
// releases it.
func cmdNflog(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Check(of(ts).held["nflog "+args[0]].Close())
		return
	}
	group, err := strconv.ParseUint(args[0], 10, 16)
	ts.Check(err)
	s := sensor.New(sensor.Options{Group: uint16(group)})
	of(ts).server.Do(func() { err = s.Open() })
	ts.Check(err)
	of(ts).hold(ts, "nflog "+args[0], s)
}

// port N, ! port N: another program listens on 127.0.0.1 port N until the script ends, or no
// longer.
func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Check(of(ts).held["port "+args[0]].Close())
		return
	}
	var (
		l   net.Listener
		err error
	)
	of(ts).server.Do(func() { l, err = net.Listen("tcp", "127.0.0.1:"+args[0]) })
	ts.Check(err)
	of(ts).hold(ts, "port "+args[0], l)
}

// lock FILE, ! lock FILE: another agent holds the lock FILE until the script ends, or releases it.
func cmdLock(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Check(of(ts).held["lock "+args[0]].Close())
		return
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	ts.Check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	of(ts).hold(ts, "lock "+args[0], f)
}

// hold stores something that another program holds until the script ends.
func (w *world) hold(ts *testscript.TestScript, what string, c io.Closer) {
	w.held[what] = c
	ts.Defer(func() { _ = c.Close() })
}

// get PATH STATUS: requests PATH of the health endpoint until it answers with this status; the body
// goes to get.txt.
func cmdGet(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	waitFor(ts, strings.Join(args, " "), func() bool {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet,
			"http://127.0.0.1:8080"+args[0], nil)
		ts.Check(err)
		res, err := of(ts).client.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = res.Body.Close() }()
		raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs("get.txt"), raw, 0o600))
		return res.StatusCode == want
	})
}

// waitFor waits until ok returns true, and fails the script if that takes too long.
func waitFor(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w, log := of(ts), ""
			if len(w.agents) > 0 {
				_, log = w.agentLog(ts)
			}
			ts.Fatalf("timed out waiting for %s; the log is\n%s", what, log)
		}
	}
}
