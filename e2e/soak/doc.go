// Package soak is the long run of `make soak`: an agent on a separate host, random troubles, and
// packets that show whether its promises hold meanwhile. It is a test with the build tag e2e_soak,
// and not part of CI.
//
// SOAK is the duration (20m). SEED repeats the order of an earlier run as far as timing allows.
package soak
