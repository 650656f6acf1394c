package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	apiKey = "sk_test_demo"
	list   = "e2e/demo/blacklist.txt"
	dev    = "veth0"
)

// visitor is one of the addresses of the attacker.
type visitor struct {
	addr   string
	listed bool
	why    string
}

func visitors() []visitor {
	return []visitor{
		{"203.0.113.66", true, "listed"},
		{"198.51.100.23", true, "in the listed 198.51.100.0/24"},
		{"2001:db8:bad::66", true, "listed"},
		{"2001:db8:bad:1::23", true, "in the listed 2001:db8:bad:1::/64"},
		{"203.0.113.200", false, "not listed"},
		{"2001:db8:900d::1", false, "not listed"},
	}
}

// ports returns the ports to knock on. All are open on the server.
func ports() []uint16 { return []uint16{22, 23, 443, 3306} }

// serverAddr returns the address of the server in a family.
func serverAddr(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr("2001:db8:5e::1")
	}
	return netip.MustParseAddr("192.0.2.1")
}

// world is the two hosts and the programs that run on them.
type world struct {
	out              io.Writer
	self, bin, dir   string
	server, attacker string // names of the namespaces
	made             []string
	started          []*exec.Cmd
	before           string // ruleset of the server before the agent started

	agent *exec.Cmd
	doneC chan struct{} // closed when the agent has exited
	ended error         // result of the agent, once doneC is closed
	mu    sync.Mutex    // guards log
	log   []string      // lines of the agent
	shown int           // number of lines shown
}

func newWorld(out io.Writer) (*world, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(hostsDir, "files-")
	if err != nil {
		return nil, err
	}
	return &world{
		out: out, self: self, bin: filepath.Dir(self), dir: dir,
		server: "server", attacker: "attacker",
		doneC: make(chan struct{}),
	}, nil
}

func (w *world) say(text string)  { _, _ = fmt.Fprintf(w.out, "\n== %s\n", text) }
func (w *world) show(line string) { _, _ = fmt.Fprintln(w.out, "   "+line) }

// ip runs the ip program.
func (w *world) ip(ctx context.Context, args string) error {
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, bytes.TrimSpace(out))
	}
	return nil
}

// on returns a command on one of the hosts. Its environment is env and PATH.
func (w *world) on(ctx context.Context, host string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", host}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// build makes the hosts, the services of the server and the API simulator.
func (w *world) build(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	serve := []string{w.self, "serve"}
	for _, port := range ports() {
		serve = append(serve, strconv.Itoa(int(port)))
	}
	if err := w.start(w.on(ctx, w.server, nil, serve...)); err != nil {
		return err
	}
	if err := w.start(w.on(ctx, w.server, nil, filepath.Join(w.bin, "sikkerapi-sim"), "-listen", "127.0.0.1:0",
		"-list", list, "-key", apiKey, "-addr-file", filepath.Join(w.dir, "api"))); err != nil {
		return err
	}
	if err := w.awaitLink(ctx); err != nil {
		return err
	}
	var err error
	w.before, err = w.ruleset(ctx)
	return err
}

// start starts a helper program that runs until the end.
func (w *world) start(cmd *exec.Cmd) error {
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	w.started = append(w.started, cmd)
	return nil
}

// awaitFile waits for a file that a program writes when it is ready, and returns its text.
func awaitFile(ctx context.Context, path string) (string, error) {
	for {
		raw, err := os.ReadFile(path)
		if err == nil && len(raw) > 0 {
			return strings.TrimSpace(string(raw)), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// startAgent starts the agent and shows its log until it runs.
func (w *world) startAgent(ctx context.Context) error {
	api, err := awaitFile(ctx, filepath.Join(w.dir, "api"))
	if err != nil {
		return err
	}
	w.agent = w.on(ctx, w.server, []string{
		"SIKKER_API_KEY=" + apiKey, "SIKKER_API_URL=http://" + api, "SIKKER_STATE_DIR=" + w.dir,
	}, filepath.Join(w.bin, "sikkerguard"))
	w.agent.Stderr = os.Stderr
	pipe, err := w.agent.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.agent.Start(); err != nil {
		return err
	}
	go func() {
		defer close(w.doneC)
		for s := bufio.NewScanner(pipe); s.Scan(); {
			w.mu.Lock()
			w.log = append(w.log, s.Text())
			w.mu.Unlock()
		}
		w.ended = w.agent.Wait()
	}()
	return w.awaitLog(ctx, 1, "SikkerGuard running")
}

// awaitLog shows the log of the agent as it grows, until n more lines contain text.
func (w *world) awaitLog(ctx context.Context, n int, text string) error {
	for {
		w.mu.Lock()
		lines := w.log[w.shown:]
		w.shown = len(w.log)
		w.mu.Unlock()
		for _, line := range lines {
			w.show(line)
			if strings.Contains(line, text) {
				n--
			}
		}
		if n <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %q in the agent's log: %w", text, ctx.Err())
		case <-w.doneC:
			return fmt.Errorf("the agent exited before it printed %q: %w", text, w.ended)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitBlocked waits for a line for each listed address and port.
func (w *world) awaitBlocked(ctx context.Context) error {
	n := 0
	for _, v := range visitors() {
		if v.listed {
			n += len(ports())
		}
	}
	return w.awaitLog(ctx, n, "BLOCKED ")
}

// knock knocks on every port from every address and shows the results. It returns the number of
// wrong results.
func (w *world) knock(ctx context.Context, protected bool, times int) (int, error) {
	var attempts []attempt
	for _, v := range visitors() {
		from := netip.AddrPortFrom(netip.MustParseAddr(v.addr), 0)
		to := serverAddr(from.Addr().Is6())
		for _, port := range ports() {
			for range times {
				attempts = append(attempts, attempt{From: from, To: netip.AddrPortFrom(to, port)})
			}
		}
	}
	results, err := w.try(ctx, attempts)
	if err != nil {
		return 0, err
	}
	return w.judge(results, protected), nil
}

// try makes the attempts from the attacker, all at once.
func (w *world) try(ctx context.Context, attempts []attempt) ([]attempt, error) {
	in, err := json.Marshal(attempts)
	if err != nil {
		return nil, err
	}
	cmd := w.on(ctx, w.attacker, nil, w.self, "knock")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("knock: %w", err)
	}
	var results []attempt
	if err := json.Unmarshal(out, &results); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return results, nil
}

// judge shows a line for each address and returns the number of wrong results.
func (w *world) judge(attempts []attempt, protected bool) int {
	wrong := 0
	for _, v := range visitors() {
		through, blocked := 0, 0
		for _, a := range attempts {
			switch {
			case a.From.Addr().String() != v.addr:
			case a.Through:
				through++
			default:
				blocked++
			}
		}
		verdict := "right"
		if bad := map[bool]int{true: through, false: blocked}[protected && v.listed]; bad > 0 {
			wrong += bad
			verdict = "WRONG"
		}
		w.show(fmt.Sprintf("%-20s %-36s %2d through, %2d blocked   %s", v.addr, v.why, through, blocked, verdict))
	}
	return wrong
}

func (w *world) ruleset(ctx context.Context) (string, error) {
	out, err := w.on(ctx, w.server, nil, "nft", "list", "ruleset").Output()
	if err != nil {
		return "", fmt.Errorf("nft list ruleset: %w", err)
	}
	return string(out), nil
}

// showTable prints the table with long element lists shortened.
func (w *world) showTable(ctx context.Context) error {
	out, err := w.on(ctx, w.server, nil, "nft", "list", "table", "inet", "sikkerguard").Output()
	if err != nil {
		return fmt.Errorf("nft list table: %w", err)
	}
	text := regexp.MustCompile(`(elements = \{ [^,}]*,\s*[^,}]*),[^}]*\}`).ReplaceAllString(string(out), "$1, … }")
	for line := range strings.Lines(strings.TrimSpace(text)) {
		w.show(strings.TrimRight(line, "\n"))
	}
	return nil
}

func (w *world) showStatus(ctx context.Context) error {
	out, err := w.on(ctx, w.server, nil, w.self, "get", "http://127.0.0.1:8080/status").Output()
	if err != nil {
		return fmt.Errorf("get /status: %w", err)
	}
	for line := range strings.Lines(strings.TrimSpace(string(out))) {
		w.show(strings.TrimRight(line, "\n"))
	}
	return nil
}

func (w *world) stopAgent(ctx context.Context) error {
	if err := w.agent.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent's end: %w", ctx.Err())
	case <-w.doneC:
		for _, line := range w.log[w.shown:] {
			w.show(line)
		}
		if w.ended != nil {
			return fmt.Errorf("the agent ended with: %w", w.ended)
		}
		return nil
	}
}

// checkClean compares the ruleset of the server with the one before the agent started.
func (w *world) checkClean(ctx context.Context) error {
	after, err := w.ruleset(ctx)
	if err != nil {
		return err
	}
	if after != w.before {
		return fmt.Errorf("the ruleset has changed:\n%s", after)
	}
	return nil
}

// close ends every process that was started and deletes the hosts.
func (w *world) close() error {
	var errs []error
	for _, cmd := range w.started {
		_ = cmd.Process.Kill() // it may have exited
		_ = cmd.Wait()
	}
	if w.agent != nil && w.agent.Process != nil {
		_ = w.agent.Process.Kill()
		select {
		case <-w.doneC: // killed now or exited before
		case <-time.After(5 * time.Second):
			errs = append(errs, errors.New("the agent does not end"))
		}
	}
	for _, ns := range w.made {
		errs = append(errs, w.ip(context.Background(), "netns delete "+ns))
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
