// Package enforce keeps the kernel's rules equal to the lists less the allowlist:
//
//	feeds → vet → lists − allowlist → apply → verify → status
//
// Its own are the loop, the rules that are wanted and the rules that are active, rollback, repair,
// the composition of the allowlist, and the files from which a start restores them. Not its own are
// the download and the formats of a list (feed), its judgement (vet), the discovery of the host
// (host), the kernel (firewall) and the texts of conditions (status).
//
// Enforcer.Run is the loop, and the only goroutine that changes rules. Everything that can wait for
// the network, a disk or a lookup has a goroutine of its own and sends its result to the loop: a
// turn pulls one feed, the surveyor surveys the host, the ownReader reads the operator's file, a
// saver writes one file. After each of them the loop composes the wanted rules and applies them if
// they differ from the active ones. The firewall verifies each change in the kernel.
//
// A new list is measured by the checks of the host. If one fails that worked before, a trial
// deactivates and activates the rules in turn. The list is rolled back only if the trial proves
// that it is the cause. Listed addresses that the host needs, but cannot name, are exempted in the
// same way.
//
// Every step can fail. The active rules then stay as they are, a condition holds, and a retry is
// scheduled: of a pull, of the kernel, of a write to the disk. If another program changes the
// rules, they are restored. After a panic the loop is started again and resumes with the active
// rules. Without any list nothing is blocked.
//
// Small interfaces join the package to the others. Package observe reads the Ledger of dropped
// packets and passes each window to Enforcer.Add, which looks for replies to this host that were
// dropped. Package deliver asks Enforcer.Allows before it reports a source, and receives each list
// through Options.Listed. Everything else reads the board of package status, which the Enforcer
// writes and never reads.
package enforce
