// Package nettest makes hosts for tests: network namespaces, veth pairs between them, and packets with any source.
//
// Everything stays inside namespaces of the test's own and ends with it; the machine's own ruleset and links are never
// touched. It needs root. Without it a test is skipped, unless SIKKERGUARD_REQUIRE_NETNS=1, which CI sets: then a test
// that cannot run is a test that failed.
//
// A Machine is more than that: a copy of this machine under an overlay, with a systemd of its own, for packages and units.
//
// It is for tests alone and knows no stage of the agent.
package nettest
