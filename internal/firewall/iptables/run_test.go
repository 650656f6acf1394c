package iptables

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// program makes a shell script of that name in a directory.
func program(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	// A child forked meanwhile would hold the file open for writing, so that it could not be run.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestProgramError runs a program that fails. The error has its exit code and the beginning of
// either output.
func TestProgramError(t *testing.T) {
	t.Parallel()
	file := program(t, t.TempDir(), "fails", "echo on output; echo on error >&2; exit 3")
	_, _, err := runner{}.run(t.Context(), askTime, nil, file, "--now")
	var p *ProgramError
	if !errors.As(err, &p) || p.Code != 3 || p.Output != "on error\non output" {
		t.Errorf("got %+v", p)
	}
	if want := "run " + file + ` --now: exit code 3: "on error\non output"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	file = program(t, t.TempDir(), "talks", "yes | head -c 100000; yes | head -c 100000 >&2; exit 1")
	_, _, err = (runner{}).run(t.Context(), askTime, nil, file)
	if !errors.As(err, &p) || len(p.Output) > 2*maxError+1 || !strings.HasPrefix(p.Output, "y") {
		t.Errorf("got %d bytes", len(p.Output))
	}
}
