// Package server serves /healthz, /status and /metrics on loopback. Prometheus also gets the
// metrics at /status, because of its Accept header.
//
// The package reads the state of the agent and changes nothing. It serves clients of this host
// only: it listens on 127.0.0.1 and [::1], accepts GET and HEAD, and checks the Host header, so
// that no web page can read it through a browser on this host. Slow and broken clients take a
// bounded number of connections for a bounded time.
//
// Listen fails if another program has the port (ErrPortTaken). Run fails if a listener does.
package server
