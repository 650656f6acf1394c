package ipset

import (
	"errors"
	"fmt"
	"strings"
)

// What an operator reads.
var (
	// ErrMissing means that a program is not installed.
	ErrMissing = errors.New("a program is missing that the iptables backend needs: install the packages iptables and ipset (Debian, Ubuntu: apt-get install iptables ipset)")
	// ErrPermission means that CAP_NET_ADMIN is missing.
	ErrPermission = errors.New("not permitted to change the firewall: run as root with CAP_NET_ADMIN and, for the legacy iptables, CAP_NET_RAW (in Docker: cap_add: [NET_ADMIN, NET_RAW])")
	// ErrRunning means that another agent has this host's sets and rules.
	ErrRunning = errors.New("another SikkerGuard runs on this host with SIKKER_BACKEND=iptables: stop it first")
	// ErrForeign means that somebody else has a set of a name of ours. Which, and what to do about it, is said beside it.
	ErrForeign = errors.New("a set that SikkerGuard did not make has the name of one of its own")
	// ErrIncomplete means that the kernel lacks something that the rules need. What it may be is said beside it.
	ErrIncomplete = errors.New("the kernel lacks a part of iptables or ipset that the rules need")
)

// ProgramError is a program that did not do what it was told.
type ProgramError struct {
	Program string   // its path
	Args    []string // as it was run
	Code    int      // exit code; -1 when it was killed or did not start
	Output  string   // what it said on standard error and then on standard output, the beginning of each
	Err     error    // of running it: the deadline, for one
}

func (e *ProgramError) Error() string {
	text := "run " + strings.Join(append([]string{e.Program}, e.Args...), " ")
	if e.Code >= 0 {
		text += fmt.Sprintf(": exit code %d", e.Code)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Output != "" {
		text += fmt.Sprintf(": %q", e.Output)
	}
	return text
}

// Unwrap is the error of running it.
func (e *ProgramError) Unwrap() error { return e.Err }

// oneLine is an error for the log, where lines are not escaped: joined errors stand on a line each.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
