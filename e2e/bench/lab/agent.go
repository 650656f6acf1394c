package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is the longest wait for the agent or for another program.
const patience = 2 * time.Minute

// Program is a running program whose output lines are kept with their times.
type Program struct {
	cmd   *exec.Cmd
	doneC chan struct{} // closed when it has ended
	ended error         // its result, once doneC is closed

	mu    sync.Mutex // guards lines
	lines []line
	moreC chan struct{} // holds a value when lines may have grown
}

type line struct {
	at   time.Time
	text string
}

// Launch starts a program on the server.
func (h *Host) Launch(cmd *exec.Cmd, cpus CPUs) (*Program, error) {
	p := &Program{cmd: cmd, doneC: make(chan struct{}), moreC: make(chan struct{}, 1)}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := h.Start(cmd, cpus); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		p.ended = cmd.Wait()
		_ = w.Close()
	}()
	go func() {
		defer close(p.doneC)
		for s := bufio.NewScanner(r); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, line{time.Now(), s.Text()})
			p.mu.Unlock()
			select {
			case p.moreC <- struct{}{}:
			default:
			}
		}
	}()
	return p, nil
}

// PID returns the number of the process.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Await waits for a line with text that was printed after a moment, and returns its time.
func (p *Program) Await(ctx context.Context, text string, after time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if at, ok := p.find(text, after); ok {
			return at, nil
		}
		select {
		case <-p.moreC:
		case <-p.doneC:
			if at, ok := p.find(text, after); ok {
				return at, nil
			}
			return time.Time{}, fmt.Errorf("%s ended before it printed %q: %w\n%s", p.cmd.Path, text, p.ended, p.log())
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for %q of %s: %w\n%s", text, p.cmd.Path, ctx.Err(), p.log())
		}
	}
}

func (p *Program) find(text string, after time.Time) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if l.at.After(after) && strings.Contains(l.text, text) {
			return l.at, true
		}
	}
	return time.Time{}, false
}

// log returns the last lines.
func (p *Program) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, l := range p.lines[max(0, len(p.lines)-20):] {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

// Signal sends a signal.
func (p *Program) Signal(s unix.Signal) error { return p.cmd.Process.Signal(s) }

// Stop ends the program by SIGTERM, or by SIGKILL if that takes too long.
func (p *Program) Stop() error {
	_ = p.Signal(unix.SIGTERM) // it may have ended
	select {
	case <-p.doneC:
		return nil
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.doneC
		return fmt.Errorf("%s did not end after SIGTERM", p.cmd.Path)
	}
}

// Kill ends the program at once.
func (p *Program) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.doneC
}

// Agent is a running SikkerGuard.
type Agent struct {
	*Program

	host *Host
}

// NewAgent starts the agent at path on the server, with a state directory and more variables.
func (h *Host) NewAgent(path string, api *API, stateDir string, cpus CPUs, env ...string) (*Agent, error) {
	cmd := exec.CommandContext(context.Background(), path)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"),
		"SIKKER_API_KEY="+key, "SIKKER_API_URL="+api.URL, "SIKKER_STATE_DIR="+stateDir)
	p, err := h.Launch(cmd, cpus)
	if err != nil {
		return nil, err
	}
	return &Agent{Program: p, host: h}, nil
}

// Lines of the agent's log.
const (
	Blocking = "INFO Blocking "
	Running  = "INFO SikkerGuard running"
)

// Get returns the answer of the agent's health endpoint to a request for a path.
func (a *Agent) Get(ctx context.Context, path string) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = a.host.Do(func() (err error) {
				c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return string(raw), errors.Join(err, res.Body.Close())
}

// Database returns the path of the agent's database in a state directory.
func Database(stateDir string) string { return filepath.Join(stateDir, "sikkerguard.db") }
