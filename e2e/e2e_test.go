//go:build e2e

// Package e2e runs the built agent against the API simulator, on separate hosts, with the scripts
// in testdata.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
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
			"blast": cmdBlast, "siege": cmdSiege, "swarm": cmdSwarm, "history": cmdHistory,
			"prometheus": cmdPrometheus, "query": cmdQuery, "alert": cmdAlert,
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
	cmd     *exec.Cmd
	log     *os.File
	awaited int // bytes of the log up to the end of the last match of await
	doneC   chan struct{}
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
	w.run(ts, p)
	return p
}

// run starts p on the server. It ends with the script.
func (w *world) run(ts *testscript.TestScript, p *process) {
	ts.Check(w.server.Start(p.cmd))
	go func() {
		defer close(p.doneC)
		_ = p.cmd.Wait()
	}()
	w.started = append(w.started, p)
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
