// Package apisim is a simulator of SikkerAPI for tests: the four endpoints of its public
// documentation, with keys, tiers and daily quotas, and with faults that a test can set.
//
// The list comes from a file that is read at each request, so a test can change it while the
// simulator runs. It has an address or network per line, optionally followed by its score (100 if
// there is none). # begins a comment. A line that has neither is in the plain text unchanged,
// because a simulator must be able to send nonsense. Country, network, protocol and severity are
// checked as parameters and select nothing.
//
// Two rules are not in the documentation and are a guess: a blacklist may be pulled 24 times a day,
// and an accepted row uses one report of the quota.
//
// Control, without a key:
//
//	POST   /_sim/fault     sets a Fault, in JSON; it replaces an earlier one of the same path
//	DELETE /_sim/fault     clears all faults
//	GET    /_sim/requests  returns the last 10,000 requests, the oldest first
//	GET    /_sim/reports   returns the last 1,000,000 accepted rows
//
// It shares no code with the client that it tests, so that a misreading of the documentation shows.
// It stores nothing on disk, and serves every client that can reach it: listen on loopback.
package apisim
