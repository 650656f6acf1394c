package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Memory is the resident memory of a process, in bytes.
type Memory struct {
	Now  int64
	Peak int64 // the highest since ResetPeak
	File int64 // part of Now in pages of files, such as the executable
}

// Resident returns the resident memory of a process.
func Resident(pid int) (Memory, error) {
	fields, err := status(fmt.Sprintf("/proc/%d/status", pid))
	return Memory{Now: fields["VmRSS"] << 10, Peak: fields["VmHWM"] << 10, File: fields["RssFile"] << 10}, err
}

// ResetPeak makes the kernel forget the highest resident memory of a process.
func ResetPeak(pid int) error {
	const resetPeak = "5" // proc_pid_clear_refs(5)
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(resetPeak), 0)
}

// WakeUps returns the number of times that the threads of a process left the processor and came
// back to it, during a time.
func WakeUps(pid int, d time.Duration) (float64, error) {
	before, err := switches(pid)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	time.Sleep(d)
	after, err := switches(pid)
	if err != nil {
		return 0, err
	}
	n := int64(0)
	for task, count := range after {
		n += count - before[task] // a thread that began meanwhile has none before
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// switches returns the context switches of each thread of a process.
func switches(pid int) (map[string]int64, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	all := map[string]int64{}
	for _, task := range tasks {
		fields, err := status(task)
		if err != nil {
			continue // the thread has ended
		}
		all[task] = fields["voluntary_ctxt_switches"] + fields["nonvoluntary_ctxt_switches"]
	}
	return all, nil
}

// CPUTime returns the processor time that a process has used.
func CPUTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // after the name
	fields := strings.Fields(rest)
	const utime, stime = 11, 12 // proc_pid_stat(5), counted from the state
	if len(fields) <= stime {
		return 0, fmt.Errorf("read stat of process %d: %q", pid, raw)
	}
	ticks := int64(0)
	for _, f := range fields[utime : stime+1] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that the agent supports
	return time.Duration(ticks) * tick, nil
}

// status returns the numeric fields of a status file in /proc.
func status(path string) (map[string]int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fields := map[string]int64{}
	for line := range strings.Lines(string(raw)) {
		name, rest, _ := strings.Cut(line, ":")
		if words := strings.Fields(rest); len(words) > 0 {
			if n, err := strconv.ParseInt(words[0], 10, 64); err == nil {
				fields[name] = n
			}
		}
	}
	return fields, nil
}
