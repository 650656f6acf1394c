package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is the role of the process that contain starts.
const inside = "inside"

// hostsDir is where `ip netns` mounts the hosts. The demo mounts its own tmpfs there.
const hostsDir = "/var/run/netns"

// contain runs the demo as the first process of a process namespace, with its own mounts. However
// it ends, even by a SIGKILL of this process or of make, the kernel then kills every process of the
// demo, and the hosts and files go with the last one.
func contain() error {
	runtime.LockOSThread() // Pdeathsig is sent when the thread that started the process ends
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run `sudo make demo`")
	}
	if err := os.MkdirAll(hostsDir, 0o755); err != nil {
		return err
	}
	// If make is killed, the kernel sends this process a signal.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return fmt.Errorf("request a signal at the end of the parent: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	endC := make(chan os.Signal, 1)
	signal.Notify(endC, endings()...)
	cmd := exec.CommandContext(context.Background(), self, inside)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the demo in separate namespaces: %w", err)
	}
	go func() {
		for s := range endC {
			_ = cmd.Process.Signal(s) // it may have exited
		}
	}()
	return cmd.Wait()
}

// endings returns the signals that end the demo: from a person, from make, from a terminal that was
// closed.
func endings() []os.Signal { return []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} }

// mountHosts mounts a separate place for the hosts and files of this process and its children.
func mountHosts() error {
	if err := unix.Mount("tmpfs", hostsDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", hostsDir, err)
	}
	return nil
}

// story is the writer of the output. If it cannot be written, as after `make demo | head`, the demo
// ends.
type story struct {
	out io.Writer
	end context.CancelCauseFunc
}

func (s story) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	if err != nil {
		s.end(fmt.Errorf("write the output: %w", err))
	}
	return n, err
}
