// Package vet decides what may be enforced: bytes in, a Blocklist or a refusal out.
//
// It is pure: no network, no kernel, no clock, no log. Neither the feed nor the operator's file is trusted. Lines are
// parsed strictly, special-purpose space is cut away, and a list that looks wrong as a whole is refused whole, with a
// *RefusalError that says which guard spoke and the numbers. What to do about a refusal, and what stays enforced meanwhile, is
// the agent's business.
package vet
