// Package agent is the only one that knows every stage. It starts them, hands values from one to the next, and tells the
// operator.
//
// Lines of work run through it, each in one file that reads from top to bottom:
//
//	enforce.go   feed.Pull → vet.Vet → firewall.Apply → evidence → status    (every pull interval)
//	observe.go   kernel drop → NFLOG → sensor → log, recorder                (all the time)
//	record.go    what was seen, and the counters → store                     (every second; nothing waits for the disk but it)
//	report.go    store → report → pkg/sikkerapi                              (every report interval)
//
// agent.go is the lifecycle: what is opened at the start, in which order, and what is taken away at the end. status.go is
// the one immutable Status that the health endpoint reads.
//
// It fails at the start when the firewall is not to be had; then nothing has been changed. What only watches (health
// endpoint, NFLOG group, control socket, database) may be missing: a condition holds while it is, and it is tried again
// (keep.go). Later nothing but being told to stop ends it.
package agent
