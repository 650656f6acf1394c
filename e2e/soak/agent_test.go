//go:build e2e_soak

package soak

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// agent is the agent under test. The test restarts it like a service manager.
type agent struct {
	s   *soak
	bin string

	held sync.RWMutex // write-locked while its output is not read

	mu     sync.Mutex
	cmd    *exec.Cmd
	doneC  chan struct{}
	keep   bool // SIKKER_ON_CRASH=keep
	meant  bool // the test ended it
	starts int
	reader *os.File // of its output
	lines  []logLine
	deaf   []span // times in which its output had no reader
}

// logLine is a line of the log and the time at which the agent wrote it.
type logLine struct {
	at   time.Time
	text string
}

func newAgent(s *soak, bin string) *agent {
	a := &agent{s: s, bin: bin}
	s.t.Cleanup(func() {
		if a.cmd != nil {
			_ = a.cmd.Process.Kill()
			<-a.doneC
		}
	})
	return a
}

// start runs it, with the server's /etc in place of that of this machine.
func (a *agent) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	// A SIGHUP before the agent handles it would end the shell.
	const inside = `trap '' HUP && mount --make-rprivate / && mount --bind "$SOAK_ETC" /etc && exec "$SOAK_BIN"`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", inside)
	onCrash := map[bool]string{true: "keep", false: "release"}[a.keep]
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "GORACE=exitcode=66", "SOAK_ETC=" + a.s.host.etc, "SOAK_BIN=" + a.bin,
		"SSL_CERT_FILE=" + a.s.host.ca,
		"SIKKER_API_KEY=" + testKey, fmt.Sprintf("SIKKER_API_URL=https://%s:%d", apiName, apiPort),
		"SIKKER_STATE_DIR=" + filepath.Join(a.s.host.disk, "state"),
		"SIKKER_WHITELIST=" + friendAddr, "SIKKER_ON_CRASH=" + onCrash, "SIKKER_REPORT_INTERVAL=1",
		"SIKKER_PULL_INTERVAL=60",
	}
	r, w, err := os.Pipe()
	if err != nil {
		a.s.t.Error(err)
		return
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := a.s.host.server.Start(cmd); err != nil {
		a.s.t.Errorf("start the agent: %v", err)
		return
	}
	_ = w.Close()
	a.cmd, a.doneC, a.meant, a.reader = cmd, make(chan struct{}), false, r
	a.starts++
	go a.read(r)
	go a.await(cmd, a.doneC)
}

// read stores the output, unless it is held.
func (a *agent) read(r *os.File) {
	defer func() { _ = r.Close() }() // lose may have closed it
	lines := bufio.NewReader(r)
	for {
		a.held.RLock()
		a.held.RUnlock() //nolint:staticcheck // it only waits
		text, err := lines.ReadString('\n')
		if text = strings.TrimSpace(text); text != "" {
			a.mu.Lock()
			a.lines = append(a.lines, logLine{written(text, time.Now()), text})
			a.mu.Unlock()
			// No list here cuts off the host: its whitelist follows the addresses that it needs.
			if slices.ContainsFunc([]string{"DATA RACE", "panic:", "rolled back"},
				func(word string) bool { return strings.Contains(text, word) }) {
				a.s.breaks(time.Now(), "the agent logs %q", text)
			}
			if !strings.Contains(text, "BLOCKED") {
				a.s.note("  agent: %s", text)
			}
		}
		if err != nil {
			return
		}
	}
}

// await reports an exit that the test did not cause.
func (a *agent) await(cmd *exec.Cmd, doneC chan struct{}) {
	err := cmd.Wait()
	a.mu.Lock()
	meant := a.meant // before the next start, which waits for doneC
	a.mu.Unlock()
	close(doneC)
	a.mu.Lock()
	if last := len(a.deaf) - 1; last >= 0 && a.deaf[last].to.IsZero() {
		a.deaf[last].to = time.Now()
	}
	a.mu.Unlock()
	if !meant {
		a.s.breaks(time.Now(), "the agent exited by itself: %v", err)
		time.Sleep(2 * time.Second)
		a.start()
	}
}

// end ends it with a signal, which may take some time, and waits.
func (a *agent) end(sig syscall.Signal) {
	a.mu.Lock()
	a.meant = true
	cmd, doneC := a.cmd, a.doneC
	a.mu.Unlock()
	if sig == syscall.SIGTERM {
		a.s.traffic.removed()
	}
	_ = cmd.Process.Signal(sig)
	<-doneC
}

func (a *agent) signal(sig syscall.Signal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.cmd.Process.Signal(sig)
}

func (a *agent) signalHUP() { a.signal(syscall.SIGHUP) }

// stop ends it at the end of the run: within the time that a service manager gives, and with 0.
func (a *agent) stop() {
	began := time.Now()
	a.end(syscall.SIGTERM)
	if took, code := time.Since(began), a.cmd.ProcessState.ExitCode(); took > 30*time.Second || code != 0 {
		a.s.breaks(began, "the agent took %v to stop, with exit code %d", took, code)
	}
}

// restart starts it again, possibly with SIKKER_ON_CRASH=keep.
func (a *agent) restart(keep bool) {
	a.mu.Lock()
	a.keep = keep
	a.mu.Unlock()
	a.start()
}

// owns reports whether the kernel shows that a running agent owns its table.
func (a *agent) owns() bool {
	return a.s.watch.newest().protects()
}

// rss returns its resident memory.
func (a *agent) rss() string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	return regexp.MustCompile(`VmRSS:\s*(.*)`).FindStringSubmatch(string(raw))[1]
}

// written returns the time at which a line was written. The line begins with the time of day, and
// may have waited for its reader.
func written(line string, read time.Time) time.Time {
	word, _, _ := strings.Cut(line, " ")
	t, err := time.ParseInLocation("2006-01-02 15:04:05", read.Format("2006-01-02 ")+word, time.Local)
	if err != nil {
		return read
	}
	if t.After(read.Add(time.Hour)) { // midnight passed in between
		t = t.AddDate(0, 0, -1)
	}
	return t
}

// logged reports whether the log has a line between two times that reports a problem, or the start
// or end of an agent. It returns true if the output had no reader in that time.
func (a *agent) logged(from, to time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.deaf {
		if s.from.Before(to) && (s.to.IsZero() || s.to.After(from)) {
			return true
		}
	}
	return slices.ContainsFunc(a.lines, func(l logLine) bool {
		return !l.at.Before(from) && !l.at.After(to) &&
			slices.ContainsFunc([]string{" WARN ", " ERROR ", "SikkerGuard v", "Stopping", "Firewall ready"},
				func(word string) bool {
					return strings.Contains(l.text, word)
				})
	})
}

// lose ends the reader of its output.
func (a *agent) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deaf = append(a.deaf, span{from: time.Now()})
	_ = a.reader.Close()
}
