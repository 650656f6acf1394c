// Package outlet stands between the log and its reader, which may be a full pipe, a closed one, a
// stopped terminal or a full disk. A Writer takes lines into a bounded buffer and never waits; a
// goroutine of its own writes them. Lines that find no room, or that the reader refuses, are
// dropped and counted, and the count stands in the log where they are missing.
//
// It never fails: Stalled returns why lines do not get through.
package outlet
