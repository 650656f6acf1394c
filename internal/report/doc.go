// Package report turns rows of what was blocked into bulk reports to SikkerAPI, and spends the daily quota well.
//
// A dropped packet that begins something proves a connection attempt and no more, so the category is port_scan; nothing of
// this host is told. The rows come from a queue that the agent hands in, and leave it only with an answer. When to try again,
// and what to say of a failure, is the agent's business: Deliver sends one batch and returns.
//
// It fails with what the client says (unauthorised, quota, temporary), or because the queue cannot be read or written.
package report
