// Package report turns rows of blocked packets into bulk reports to SikkerAPI and keeps within the
// daily quota.
//
// A dropped packet that starts a connection proves an attempt and no more, so the category is
// port_scan. A report contains nothing about this host. The rows come from a queue that the agent
// passes in. They leave it only with an answer of the API. Deliver sends one batch and returns; the
// agent decides when to try again and which failures to log.
//
// Deliver fails with the errors of the client (unauthorised, quota, temporary), or if the queue
// cannot be read or written.
package report
