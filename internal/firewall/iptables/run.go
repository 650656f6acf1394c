package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// askTime is the longest run of a program that reads or changes a few rules. It includes the
	// wait for the lock of iptables.
	askTime = 30 * time.Second
	// fillTime is the longest time to fill the sets. Half a million entries take two seconds on an
	// idle core. It is shorter than the watchdog interval of the systemd unit.
	fillTime = 2 * time.Minute
	// waitDelay is how long a killed program may keep its output open.
	waitDelay = 5 * time.Second
	// maxOutput is the longest output of a program, in bytes. The rules of table raw fill a screen.
	maxOutput = 16 << 20
	// maxError is the longest quotation from standard error, and from standard output, in bytes.
	maxError = 1 << 10
	// lockWait is how many seconds iptables waits while another program changes rules.
	lockWait = "5"
)

// path lists the directories of the programs, and is their PATH. The agent's own PATH is not
// trusted.
const path = "/usr/sbin:/usr/bin:/sbin:/bin"

// runner runs programs.
type runner struct {
	dirs []string
}

// find returns the path of a program. It is empty if there is none.
func (r runner) find(name string) string {
	for _, dir := range r.dirs {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// run runs a program and returns its standard output and standard error. The arguments are
// constants, or names that this package chose.
func (r runner) run(
	ctx context.Context, limit time.Duration, stdin io.Reader, program string, args ...string,
) (stdout, stderr string, err error) {
	out := outputBuffer{max: maxOutput}
	stderr, err = r.stream(ctx, limit, stdin, &out, program, args...)
	if err == nil && out.truncated {
		err = &ProgramError{Program: program, Args: args, Code: -1, Err: errTooMuch}
	}
	if err == nil {
		return out.String(), stderr, nil
	}
	if e := (*ProgramError)(nil); errors.As(err, &e) {
		e.Output = quoteOutput(e.Output, out.String())
	}
	return "", "", err
}

// errTooMuch means that a program printed more than maxOutput.
var errTooMuch = fmt.Errorf("it printed more than %d bytes", maxOutput)

// stream is run for a program with a long standard output, which goes to out.
func (r runner) stream(
	ctx context.Context, limit time.Duration, stdin io.Reader, out io.Writer, program string, args ...string,
) (stderr string, err error) {
	// The kernel kills the program when the thread that started it ends, as when the agent is
	// killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	errOut := outputBuffer{max: maxOutput}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + path, "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin = stdin
	cmd.Stdout, cmd.Stderr = out, &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = waitDelay
	err = cmd.Run()
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	if err == nil && errOut.truncated {
		err = errTooMuch
	}
	if err == nil {
		return errOut.String(), nil
	}
	e := &ProgramError{Program: program, Args: args, Code: -1, Err: err, Output: quoteOutput(errOut.String())}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 {
		e.Code, e.Err = exit.ExitCode(), nil
	}
	return "", e
}

// quoteOutput returns the beginnings of the texts that are not empty.
func quoteOutput(texts ...string) string {
	var all []string
	for _, text := range texts {
		if text = strings.TrimSpace(text); text != "" {
			all = append(all, text[:min(len(text), maxError)])
		}
	}
	return strings.Join(all, "\n")
}

// outputBuffer keeps the first max bytes that are written to it.
type outputBuffer struct {
	bytes.Buffer
	max       int
	truncated bool
}

func (b *outputBuffer) Write(p []byte) (int, error) {
	n := min(len(p), b.max-b.Len())
	b.truncated = b.truncated || n < len(p)
	b.Buffer.Write(p[:n])
	return len(p), nil
}

// permitted reports whether the process may change the firewall.
func permitted(legacy bool) (bool, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false, fmt.Errorf("ask for capabilities: %w", err)
	}
	want := uint32(1 << unix.CAP_NET_ADMIN)
	if legacy {
		want |= 1 << unix.CAP_NET_RAW
	}
	return data[0].Effective&want == want, nil
}
