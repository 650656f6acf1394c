// Package vet decides which entries may be enforced: it parses bytes and returns a Blocklist or a
// refusal.
//
// It is pure: it has no network, kernel, clock or log. It trusts neither the feed nor the
// operator's file. Lines are parsed strictly, special-purpose space is removed, and a list that
// looks wrong as a whole is refused as a whole, with a *RefusalError that names the guard and the
// numbers. The agent handles the refusal; the previous list stays enforced.
package vet
