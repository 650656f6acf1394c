package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lab"
)

// insideEnv marks the process that contain starts.
const insideEnv = "SIKKERGUARD_BENCH_INSIDE"

// contain runs the measurement in a process with mounts of its own, in which the resolver is that
// of the hosts. The mounts end with the process.
func contain(ctx context.Context) error {
	runtime.LockOSThread() // Pdeathsig is sent when the thread that started the process ends
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run `sudo make bench`")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the measurement with mounts of its own: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // it may have exited
	defer stop()
	return cmd.Wait()
}

// endings returns the signals that end a measurement.
func endings() []os.Signal { return []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} }

// useResolver makes the resolver of the hosts that of this process and its children.
func useResolver(dir string) error {
	file := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+lab.Resolver().String()+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(file, 0o644); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("find resolv.conf: %w", err)
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount resolv.conf: %w", err)
	}
	return nil
}

// listenForEnd returns a context that ends with a signal.
func listenForEnd() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), endings()...)
}
