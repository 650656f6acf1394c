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

// agent is the agent under test, started again by us as a service manager would.
type agent struct {
	s   *soak
	bin string

	held sync.RWMutex // held for writing while its output is not read

	mu     sync.Mutex
	cmd    *exec.Cmd
	doneC  chan struct{}
	keep   bool // SIKKER_ON_CRASH=keep
	meant  bool // its end is ours
	starts int
	reader *os.File // of its output
	lines  []logLine
	deaf   []span // in which its output had no reader
}

// logLine is a line of the log and when the agent says that it wrote it.
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

// start runs it, with the server's /etc in the place of ours.
func (a *agent) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	// A SIGHUP that comes before the agent heeds it would end the shell.
	const inside = `trap '' HUP && mount --make-rprivate / && mount --bind "$SOAK_ETC" /etc && exec "$SOAK_BIN"`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", inside)
	onCrash := map[bool]string{true: "keep", false: "release"}[a.keep]
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "GORACE=exitcode=66", "SOAK_ETC=" + a.s.host.etc, "SOAK_BIN=" + a.bin, "SSL_CERT_FILE=" + a.s.host.ca,
		"SIKKER_API_KEY=" + testKey, fmt.Sprintf("SIKKER_API_URL=https://%s:%d", apiName, apiPort), "SIKKER_STATE_DIR=" + filepath.Join(a.s.host.disk, "state"),
		"SIKKER_WHITELIST=" + friendAddr, "SIKKER_ON_CRASH=" + onCrash, "SIKKER_REPORT_INTERVAL=1", "SIKKER_PULL_INTERVAL=60",
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

// read keeps what it says, unless its output is held.
func (a *agent) read(r *os.File) {
	defer func() { _ = r.Close() }() // lose may have done it
	lines := bufio.NewReader(r)
	for {
		a.held.RLock()
		a.held.RUnlock() //nolint:staticcheck // it only waits
		text, err := lines.ReadString('\n')
		if text = strings.TrimSpace(text); text != "" {
			a.mu.Lock()
			a.lines = append(a.lines, logLine{written(text, time.Now()), text})
			a.mu.Unlock()
			// No list of this world cuts the host off: its whitelist follows what it needs.
			if slices.ContainsFunc([]string{"DATA RACE", "panic:", "rolled back"}, func(word string) bool { return strings.Contains(text, word) }) {
				a.s.breaks(time.Now(), "the agent says %q", text)
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

// await notices an end that is not ours.
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
		a.s.breaks(time.Now(), "the agent ended by itself: %v", err)
		time.Sleep(2 * time.Second)
		a.start()
	}
}

// end ends it by a signal, which it may take some time to heed, and waits.
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

// stop ends it for good: within the time that a service manager gives, and with 0.
func (a *agent) stop() {
	began := time.Now()
	a.end(syscall.SIGTERM)
	if took, code := time.Since(began), a.cmd.ProcessState.ExitCode(); took > 30*time.Second || code != 0 {
		a.s.breaks(began, "the agent took %v to stop, with exit code %d", took, code)
	}
}

// restart starts it again, perhaps as one that keeps its rules.
func (a *agent) restart(keep bool) {
	a.mu.Lock()
	a.keep = keep
	a.mu.Unlock()
	a.start()
}

// owns reports whether an agent runs that owns its table, as the kernel has it.
func (a *agent) owns() bool {
	return a.s.watch.newest().protects()
}

// rss is how much memory it has.
func (a *agent) rss() string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	return regexp.MustCompile(`VmRSS:\s*(.*)`).FindStringSubmatch(string(raw))[1]
}

// written is when a line was written: it begins with the time of day, and may have waited for its
// reader.
func written(line string, read time.Time) time.Time {
	word, _, _ := strings.Cut(line, " ")
	t, err := time.ParseInLocation("2006-01-02 15:04:05", read.Format("2006-01-02 ")+word, time.Local)
	if err != nil {
		return read
	}
	if t.After(read.Add(time.Hour)) { // it was midnight meanwhile
		t = t.AddDate(0, 0, -1)
	}
	return t
}

// told reports whether the log holds a line between two times that says that something is wrong, or
// that an agent begins or ends. It cannot be asked of times in which the output had no reader.
func (a *agent) told(from, to time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.deaf {
		if s.from.Before(to) && (s.to.IsZero() || s.to.After(from)) {
			return true
		}
	}
	return slices.ContainsFunc(a.lines, func(l logLine) bool {
		return !l.at.Before(from) && !l.at.After(to) &&
			slices.ContainsFunc([]string{" WARN ", " ERROR ", "SikkerGuard v", "Stopping", "Firewall ready"}, func(word string) bool {
				return strings.Contains(l.text, word)
			})
	})
}

// lose has the reader of its output go for good.
func (a *agent) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deaf = append(a.deaf, span{from: time.Now()})
	_ = a.reader.Close()
}
