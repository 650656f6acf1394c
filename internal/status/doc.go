// Package status holds the state of the agent as its readers see it: the Status that /status shows,
// the Board that publishes it, and the tables of conditions and of metrics, from which
// docs/conditions.md and docs/metrics.md are generated.
//
// Parts of the agent write to the Board, and none reads back from it: a part keeps its own state.
// The health endpoint, the command line, Prometheus and the service manager read. Nothing here
// reads the kernel or a file by itself; functions in Options do. A panic of a reader is contained;
// only its question fails.
package status
