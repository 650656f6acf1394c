// Package agent builds the parts of the program, starts them, and stops them in order. It is the
// only package that knows every stage; it passes values from one part to the next. The work is in
// the parts:
//
//	enforce   pull → vet → blocklist − allowlist → apply → verify → status
//	observe   kernel drop → NFLOG → sensor → window → log line, recorder
//	deliver   Recorder (memory → database) and Courier (database → SikkerAPI)
//
// Agent opens the firewall and runs every part until its context ends. Then it removes the rules
// first, before it logs or waits for a part: a disk that hangs cannot keep them active.
//
// A supervisor runs each part and restarts it after an error or a panic. While a part is not
// available a condition holds; protection does not depend on the health endpoint, the NFLOG group,
// the control socket or the database. Run fails at the start only if the firewall cannot be opened;
// nothing was changed then. Later it ends only with its context.
package agent
