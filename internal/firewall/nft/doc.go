// Package nft owns the table inet sikkerguard: it writes it, asks the kernel what is in it, and takes it away.
//
// The whole desired state goes into one batch, made the same way at the start, at a refresh and at a repair; the kernel
// takes it whole or not at all. No other table is ever changed. For a moment there may be a second one of ours, see shield.
// What may be blocked is not decided here.
//
// It can fail because nf_tables is not there (ErrUnsupported), because the process may not change it (ErrPermission),
// because another agent owns the table (ErrOwned), or because the kernel took the batch and enforces something else
// (ruleset.ErrMismatch). After an error of Apply what was enforced before still is.
package nft
