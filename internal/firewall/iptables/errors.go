package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Errors that an operator reads.
var (
	// ErrMissing means that a program is not installed.
	ErrMissing = errors.New("a program of the iptables backend is missing: " +
		"install the packages iptables and ipset (Debian, Ubuntu: apt-get install iptables ipset)")
	// ErrPermission means that CAP_NET_ADMIN is missing.
	ErrPermission = errors.New("not permitted to change the firewall: run as root with CAP_NET_ADMIN and, " +
		"for the legacy iptables, CAP_NET_RAW (in Docker: cap_add: [NET_ADMIN, NET_RAW])")
	// ErrRunning means that another agent owns the sets and rules of this host.
	ErrRunning = errors.New("another SikkerGuard runs on this host with SIKKER_BACKEND=iptables: stop it first")
	// ErrForeign means that another program has a set with a name of ours. The error that wraps it
	// names the set and the remedy.
	ErrForeign = errors.New("another program's set has the name of a set of SikkerGuard")
	// ErrIncomplete means that the kernel lacks a feature that the rules need. The error that wraps
	// it names the modules that may be missing.
	ErrIncomplete = errors.New("the kernel lacks a part of iptables or ipset that the rules need")
	// ErrUnprintable means that table raw and our chain in it hold rules that iptables cannot
	// print.
	ErrUnprintable = errors.New("iptables cannot print table raw, because it holds rules made with nft " +
		"(nft list table ip raw, nft list table ip6 raw): " +
		"move them to a table of their own, or use SIKKER_BACKEND=nftables")
)

// ProgramError is the error of a program that failed.
type ProgramError struct {
	Program string   // path
	Args    []string // arguments of the run
	Code    int      // exit code; -1 if it was killed or did not start
	Output  string   // beginning of standard error, then of standard output
	Err     error    // of running it, such as the deadline
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

// Unwrap returns the error of running the program.
func (e *ProgramError) Unwrap() error { return e.Err }

// refused reports whether a program rejected its input, so that a later try fails too.
func refused(err error) bool {
	// iptables exits with 4 if another program holds its lock for too long, or if it has no memory.
	const resource = 4
	var p *ProgramError
	return errors.As(err, &p) && p.Code > 0 && p.Code != resource
}

// broken reports whether a program rejects its input or cannot be started. A program that takes too
// long is not broken: it may be quicker later.
func broken(err error) bool {
	var p *ProgramError
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	return refused(err) || errors.As(err, &p) && p.Code < 0 && !late
}
