package iptables

import (
	"context"
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
	// ErrUnprintable means that table raw, and our chain in it, hold rules that iptables cannot print.
	ErrUnprintable = errors.New("iptables cannot print table raw, because rules are in it that were made with nft (nft list table ip raw, nft list table ip6 raw): move them to a table of their own, or use SIKKER_BACKEND=nftables")
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

// refused says whether a program did not want to do what it was told, which it will not want later either.
func refused(err error) bool {
	// iptables exits with 4 when another program holds its lock for too long, or when it has no memory.
	const resource = 4
	var p *ProgramError
	return errors.As(err, &p) && p.Code > 0 && p.Code != resource
}

// broken says whether a program refuses, or cannot be started at all. One that takes too long may be quicker later.
func broken(err error) bool {
	var p *ProgramError
	return refused(err) || errors.As(err, &p) && p.Code < 0 && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}
