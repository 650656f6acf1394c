// Package host finds what this host depends on: the safety whitelist, which no list may ever block. Discover looks at it,
// Watch says when to look again, and Probe whether what was found can be reached. Surroundings notices a network namespace
// that is not the machine's, and guests whose packets no rule of the host sees.
//
// Mine: the default gateways, the resolvers, the host's own addresses, private ranges and loopback, the addresses of the
// API and of the proxy on the way to it, and what the operator names. Not mine: what is done with them, which list they
// are kept from, and whether the operator's entries make sense.
//
// What can fail: each source by itself. A source that cannot be read is a problem in the result, not an error, and what it
// gave at the last complete look stays whitelisted. Files and answers from the network are capped, and what is no
// address in them is passed over.
//
// What cannot be seen: resolvers that a stub on loopback other than systemd-resolved asks (Probe notices when they are not
// reached), and gateways of nexthop objects on a host that sets net.ipv4.nexthop_compat_mode=0. The operator's entries are
// the way out for both.
package host
