// Package outlet decouples the log from its reader, which may be a full pipe, a closed one, a
// stopped terminal or a full disk. A Writer stores lines in a bounded buffer and never waits; its
// goroutine writes them. Lines that find no room, or that the reader refuses, are dropped and
// counted, and a notice in the log states their number where they are missing.
//
// A Writer never fails: Stalled returns the reason why lines do not get through.
package outlet
