// Package apisim is a simulator of SikkerAPI for tests: the four endpoints of its public documentation, with keys, tiers
// and daily quotas, and with faults to order.
//
// The list comes from a file that is read at each request, so that a test changes it while the simulator runs: an address
// or network a line, optionally followed by its score (100 when left out), # begins a comment. A line that holds neither
// is passed on as it is in plain text, for a simulator must be able to tell nonsense. Country, network, protocol and
// severity are checked as parameters and select nothing.
//
// Outside the documentation, and therefore a guess: a blacklist may be pulled 24 times a day, and a row that is accepted
// takes one report of the quota.
//
// Control, without a key:
//
//	POST   /_sim/fault     orders a Fault, in JSON; it takes the place of an earlier one of the same path
//	DELETE /_sim/fault     clears all faults
//	GET    /_sim/requests  what was asked, the last 10,000, the oldest first
//	GET    /_sim/reports   the rows that were accepted, the last 1,000,000
//
// It shares no code with the client it tests, so that a misreading of the documentation shows. It keeps nothing when it
// ends, and serves whoever can reach it: listen on loopback.
package apisim
