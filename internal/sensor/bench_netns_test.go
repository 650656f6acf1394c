package sensor

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkEvents sends logged packets as fast as one thread can, and reports how many were
// received and lost.
func BenchmarkEvents(b *testing.B) {
	h := newHost(b)
	s := New(Options{Group: group})
	h.open(s)
	packet := ipv4(packet4(UDP, 0, 0, pad(ports(53))...))
	runtime.LockOSThread() // to measure the CPU time of the sender separately from that of the sensor
	defer runtime.UnlockOSThread()
	var sent uint64
	own, all := cpuTime(b, unix.RUSAGE_THREAD), cpuTime(b, unix.RUSAGE_SELF)
	start := time.Now()
	for b.Loop() {
		h.sender.Raw(server4, packet)
		sent++
	}
	took := time.Since(start)
	sent = h.settle(s, sent)
	cpu := cpuTime(b, unix.RUSAGE_SELF) - all - (cpuTime(b, unix.RUSAGE_THREAD) - own)
	t := s.Totals()
	if t.Events+t.Lost != sent || t.Unparsed != 0 || t.Overflow != 0 {
		b.Fatalf("totals %+v: events and lost are %d, want %d", t, t.Events+t.Lost, sent)
	}
	b.ReportMetric(float64(t.Events)/took.Seconds(), "events/s")
	b.ReportMetric(100*float64(t.Lost)/float64(sent), "%lost")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(max(t.Events, 1)), "cpu-ns/event")
}

// cpuTime returns the CPU time used by the process or the calling thread.
func cpuTime(tb testing.TB, who int) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
