// Package lab makes the hosts of a measurement: network namespaces, veth pairs between them, a bulk
// sender, the agent under test and its API.
//
// Everything stays inside namespaces of this process and ends with it. The machine's own ruleset
// and links are never changed.
package lab
