package nettest

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed boot.sh
var bootScript []byte

// awaitTimeout is the most time that Await waits, for example for systemd to start.
const awaitTimeout = time.Minute

// Machine is a copy of this machine that is discarded with the test: its files under an overlay,
// its own processes, and a systemd that has started only its journal. Tests can install packages
// and run units in it.
type Machine struct {
	tb     testing.TB
	ns     *NS
	pid    int
	goneC  chan struct{} // closed when the machine has ended
	Shared string        // directory that the machine mounts at /shared
}

// Boot boots a machine with the network of n. It needs systemd, and a kernel with overlayfs and
// cgroup v2.
func Boot(n *NS) *Machine {
	tb := n.tb
	tb.Helper()
	// The machine's files come from the root file system. File systems mounted over it are not
	// included.
	top, err := os.MkdirTemp("", "machine")
	if err != nil {
		tb.Fatalf("boot: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(top) })
	dir, script := filepath.Join(top, "m"), filepath.Join(top, "boot.sh")
	shared := dir + ".shared"
	for _, d := range []string{dir, shared} {
		if err := os.Mkdir(d, 0o755); err != nil {
			tb.Fatalf("boot: %v", err)
		}
	}
	if err := os.WriteFile(script, bootScript, 0o600); err != nil {
		tb.Fatalf("boot: %v", err)
	}
	var console bytes.Buffer
	ctx := context.WithoutCancel(tb.Context()) // the cleanup runs commands after the test's context has ended
	cmd := exec.CommandContext(ctx, "sh", script, "boot", dir)
	cmd.Stdout, cmd.Stderr = &console, &console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := n.Start(cmd); err != nil {
		tb.Fatalf("boot: %v", err)
	}
	m := &Machine{tb: tb, ns: n, pid: cmd.Process.Pid, goneC: make(chan struct{}), Shared: shared}
	tb.Cleanup(func() {
		m.end(cmd.Process, &console)
		clean := exec.CommandContext(ctx, "sh", script, "clean", dir)
		clean.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		if out, err := clean.CombinedOutput(); err != nil {
			tb.Logf("clean up after the machine: %v\n%s", err, out)
		}
	})
	go func() {
		_ = cmd.Wait()
		close(m.goneC)
	}()
	m.awaitBoot()
	return m
}

// awaitBoot waits until systemd has started everything.
func (m *Machine) awaitBoot() {
	m.tb.Helper()
	m.Await("systemd", func() bool {
		select {
		case <-m.goneC:
			m.tb.Fatal("the machine ended while booting")
		default:
		}
		out, _ := m.Try("systemctl is-active test.target")
		return strings.TrimSpace(out) == "active"
	})
}

// end kills the machine, whose first process is init. If the test has failed, it logs the journal
// and the console.
func (m *Machine) end(init *os.Process, console *bytes.Buffer) {
	m.tb.Helper()
	if m.tb.Failed() {
		journal, _ := m.Try("journalctl --no-pager --lines=80")
		m.tb.Logf("journal of the machine:\n%s", journal)
	}
	_ = init.Kill() // the kernel kills the PID namespace with its first process
	<-m.goneC
	if m.tb.Failed() {
		m.tb.Logf("console of the machine:\n%s", console.String())
	}
}

// Try runs a shell command line in the machine and returns its output.
func (m *Machine) Try(line string) (string, error) {
	cmd := exec.CommandContext(context.WithoutCancel(m.tb.Context()),
		"nsenter", "--target", strconv.Itoa(m.pid), "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net",
		"--root", "--wd",
		"env", "-i", "PATH="+os.Getenv("PATH"), "DEBIAN_FRONTEND=noninteractive", "sh", "-c", line)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", line, err, out)
	}
	return string(out), err
}

// Sh runs a shell command line like Try, and fails the test if the command fails.
func (m *Machine) Sh(line string) string {
	m.tb.Helper()
	out, err := m.Try(line)
	if err != nil {
		m.tb.Fatal(err)
	}
	return out
}

// Await waits until ok returns true, and fails the test after awaitTimeout. condition names the
// awaited condition in the message.
func (m *Machine) Await(condition string, ok func() bool) {
	m.tb.Helper()
	for end := time.Now().Add(awaitTimeout); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			m.tb.Fatalf("timeout while waiting for %s", condition)
		}
	}
}
