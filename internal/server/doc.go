// Package server answers /healthz, /status and /metrics on loopback. Prometheus gets the metrics at /status too, by what it
// accepts.
//
// It reads what the agent says of itself and changes nothing. It is for clients of this host alone: it listens on
// 127.0.0.1 and [::1], takes GET and HEAD, and checks the Host header, so that no web page reads it through somebody's
// browser. Slow and odd clients cost a bounded number of connections for a bounded time.
//
// Listen fails when another program has the port (ErrPortTaken); Run fails when a listener does.
package server
