// Package soak holds the long run of `make soak`: an agent on a host of its own, troubles that come
// at random, and packets that tell whether its promises hold meanwhile. It is a test with the build
// tag e2e_soak, and not part of CI.
//
// SOAK is how long it runs (20m), SEED repeats the order of an earlier run as far as time allows.
package soak
