//go:build e2e

package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestDemoLeavesNothing ends the demo in all the ways that a person, make or a terminal can, while
// both hosts and everything on them run. Afterwards none of its processes and hosts is left.
func TestDemoLeavesNothing(t *testing.T) {
	t.Parallel()
	nettest.New(t) // skips or fails before anything is built
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../cmd/sikkerguard",
		"./apisim/sikkerapi-sim", "./demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, make, demo *os.Process, reader *os.File)
	}{
		{"OK its reader goes away, as in make demo | head", func(t *testing.T, _, _ *os.Process, reader *os.File) {
			t.Helper()
			if err := reader.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"OK SIGINT", sends(false, syscall.SIGINT)},
		{"OK SIGHUP, a terminal that was closed", sends(false, syscall.SIGHUP)},
		{"OK SIGKILL", sends(false, syscall.SIGKILL)},
		{"OK SIGKILL for make", sends(true, syscall.SIGKILL)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() // each run has its own path, by which its processes are found
			for _, name := range []string{"sikkerguard", "sikkerapi-sim", "demo"} {
				if err := os.Link(filepath.Join(bin, name), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", filepath.Join(dir, "demo")+"; exit $?") // sh takes the place of make
			cmd.Dir, cmd.Stdout, cmd.Stderr = "..", writer, writer
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = writer.Close()
			lines := bufio.NewScanner(reader)
			for lines.Scan() && !strings.Contains(lines.Text(), "INFO SikkerGuard running") {
			}
			running := processes(t, dir)
			if len(running) < 5 { // the demo twice, the agent, the simulator, the open ports
				t.Fatalf("running: %v (%v)", running, lines.Err())
			}
			var demo *os.Process
			for pid, line := range running {
				if line == filepath.Join(dir, "demo") {
					demo, err = os.FindProcess(pid)
				}
			}
			if demo == nil || err != nil {
				t.Fatalf("the demo is not among %v (%v)", running, err)
			}
			go func() { // like a terminal, reads on until the pipe is closed
				for lines.Scan() {
				}
			}()
			tt.end(t, cmd.Process, demo, reader)
			if err := cmd.Wait(); err == nil {
				t.Error("a demo that was ended early reports success")
			}
			var left map[int]string
			for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if left = processes(t, dir); len(left) == 0 {
					break
				}
			}
			if len(left) > 0 {
				t.Errorf("still there: %v", left)
			}
			mounts, err := os.ReadFile("/proc/self/mounts")
			if err != nil || strings.Contains(string(mounts), "/netns/attacker") {
				t.Errorf("a host is left (%v):\n%s", err, mounts)
			}
			_ = reader.Close()
		})
	}
}

// sends returns a function that sends a signal to make or to the demo.
func sends(toMake bool, sig syscall.Signal) func(*testing.T, *os.Process, *os.Process, *os.File) {
	return func(t *testing.T, make, demo *os.Process, _ *os.File) {
		t.Helper()
		to := demo
		if toMake {
			to = make
		}
		if err := to.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
}

// processes returns the command lines of the processes whose program is in dir, by process ID.
func processes(t *testing.T, dir string) map[int]string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, link := range links {
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, dir+"/") {
			line, _ := os.ReadFile(filepath.Dir(link) + "/cmdline") // it may have exited meanwhile
			found[pid] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
