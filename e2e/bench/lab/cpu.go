package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPUs is a set of processors. Nil means all.
type CPUs []int

// Sending returns the processor that sends and receives packets, and Others returns the rest. On a
// machine with one processor they are the same.
func Sending() int { return runtime.NumCPU() - 1 }

// Others returns the processors besides Sending.
func Others() CPUs {
	var cpus CPUs
	for i := range max(1, Sending()) {
		cpus = append(cpus, i)
	}
	return cpus
}

// pin keeps the calling thread, and the processes that it starts, on the CPUs.
func (c CPUs) pin() error {
	if c == nil {
		return nil
	}
	var set unix.CPUSet
	for _, i := range c {
		set.Set(i)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin thread to processors %v: %w", []int(c), err)
	}
	return nil
}

// softirqd is the kernel thread that takes over packets that a processor could not finish in the
// interrupt. Its time is part of the cost of a packet.
type softirqd struct{ path string }

func findSoftirqd(cpu int) (softirqd, error) {
	want := fmt.Sprintf("ksoftirqd/%d", cpu)
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return softirqd{}, err
	}
	for _, name := range names {
		if raw, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(raw)) == want {
			return softirqd{filepath.Join(filepath.Dir(name), "schedstat")}, nil
		}
	}
	return softirqd{}, nil // in a container kernel threads cannot be seen
}

// time returns the processor time of the kernel thread.
func (s softirqd) time() time.Duration {
	raw, err := os.ReadFile(s.path)
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}
