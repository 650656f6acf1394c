// Package nettest makes hosts for tests: network namespaces, veth pairs between them, and packets
// with any source address.
//
// Everything stays inside namespaces that belong to the test and ends with it. The machine's own
// ruleset and links are never changed. The package needs root. Without root a test is skipped,
// unless SIKKERGUARD_REQUIRE_NETNS=1, which CI sets: then a test that cannot run fails.
//
// A Machine is a copy of this machine under an overlay, with its own systemd, for tests of packages
// and units.
//
// Only tests import this package. It imports no package of the agent.
package nettest
