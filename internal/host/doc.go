// Package host discovers the addresses that this host depends on, for the safety allowlist, which
// no list may block. Local and Names find them, Watch and WatchFiles report when they may have
// changed, and Probe checks that they can be reached. Resolved and Recall keep the addresses of
// names over a start without DNS. Surroundings detects a network namespace that is not the
// machine's, and guests whose packets pass no rule of the host. UDPSockets, UDPPeers and LocalPorts
// show which datagrams may be answers to this host.
//
// The allowlist contains the default gateways, the resolvers, the host's own addresses, private
// ranges and loopback, the addresses of the API and of the proxy before it, and the operator's
// entries. The package does not decide where the allowlist is used, nor whether the operator's
// entries make sense.
//
// Each source can fail by itself. A source that cannot be read is a problem in the result, not an
// error, and its finds of the last complete reading stay on the allowlist. Files and answers from
// the network are capped. Text in them that is no address is skipped.
//
// Two sources cannot be read: the resolvers behind a stub on loopback other than systemd-resolved
// (Probe notices if they are not reached), and gateways of nexthop objects on a host that sets
// net.ipv4.nexthop_compat_mode=0. The operator adds these to SIKKER_WHITELIST.
package host
