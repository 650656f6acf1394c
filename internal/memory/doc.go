// Package memory keeps the resident memory of the process small between refreshes.
//
// A refresh parses a list and builds a transaction of it: it leaves several times the memory of the
// list as garbage, which the Go runtime reuses and returns to the kernel late or never. The code of
// a start also stays mapped as long as the process lives. A Reclaimer makes the collector work
// harder while such work is under way, and returns both to the kernel afterwards.
//
// It changes settings of the whole process, so one process has one Reclaimer. It returns no errors:
// if the kernel refuses, the process only stays larger.
package memory
